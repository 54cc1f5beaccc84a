"""Plots as SVG documents with axes, units and zones. matplotlib is imported at the first plot, not at startup.

Plots are drawn without `pyplot`, whose state is global, and byte-identical for the same data: no dates, no
random ids.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from web.dashboard.queries.attempt_metrics import Slot
from web.dashboard.queries.money_metrics import CURVE_DAYS, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: In inches of 72 points; pages scale them to the available width.
WIDTH, HEIGHT = 5.2, 3.0


_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "borderpad": 0.1, "handlelength": 1.4}


@dataclass(frozen=True)
class Theme:
    """Colours that colour-blind users can distinguish (Okabe–Ito), for a light or a dark page."""

    ink: str
    line: str
    good: str
    bad: str
    asking: str
    idle: str


THEMES = {
    "light": Theme("#17202a", "#b9c1ca", "#00795a", "#c44e00", "#b07d00", "#76808a"),
    "dark": Theme("#e7ecf1", "#4a5663", "#35c79a", "#ff8b4a", "#e6bb45", "#98a3ae"),
}


def draw_attempts(slots: Sequence[Slot], *, by_hour: bool, zone: str, theme: Theme) -> str:
    """Draw attempts by outcome over the slots, and the success rate below. `zone` is a zone's name."""
    with _style(theme):
        figure, (counts, rates) = _figure(2, [2.1, 1])
        places = range(len(slots))
        bottom = [0] * len(slots)
        for name, colour, hatch in (
            ("succeeded", theme.good, ""),
            ("declined", theme.bad, "//"),
            ("authentication_needed", theme.asking, ".."),
            ("not_sent", theme.idle, "xx"),
        ):
            heights = [getattr(slot.attempts, name) for slot in slots]
            if any(heights) or name == "succeeded":
                counts.bar(
                    places,
                    heights,
                    bottom=bottom,
                    color=colour,
                    width=0.8,
                    label=name.replace("_", " "),
                    hatch=hatch,
                    edgecolor=theme.line,
                    linewidth=0.3,
                )
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        _whole_numbers(counts)
        counts.set_ylim(0, max(*bottom, 1) * 1.05)
        counts.set_ylabel("attempts")
        counts.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, columnspacing=1, **_LEGEND)
        _rates(rates, slots, theme)
        rates.set_xlabel(f"{'hour' if by_hour else 'day'} in which the outcome was known ({zone})")
        every = 3 if by_hour else 2
        shown = [n for n in places if (len(slots) - 1 - n) % every == 0]
        words = "%H:%M" if by_hour else "%b %d"
        rates.set_xticks(shown, [slots[n].begins_at.strftime(words) for n in shown])
        return _to_svg(figure)


def _rates(axes: "Axes", slots: Sequence[Slot], theme: Theme) -> None:
    rated = [(n, slot.attempts.success_rate) for n, slot in enumerate(slots)]
    known = [(n, 100 * rate) for n, rate in rated if rate is not None]
    axes.plot([n for n, _ in known], [rate for _, rate in known], color=theme.good, marker="o", markersize=3)
    axes.set_ylim(-4, 104)
    axes.set_yticks([0, 50, 100])
    axes.set_ylabel("success (%)")
    axes.set_xlim(-0.6, len(slots) - 0.4)


def draw_recovery(present: Curve, before: Curve, *, theme: Theme) -> str:
    """Draw the share of money recovered by day since the first decline, for the current and the last month."""
    with _style(theme):
        figure, (axes,) = _figure(1, [1])
        for curve, colour, dashes in ((present, theme.good, "-"), (before, theme.idle, "--")):
            if curve.shares:
                axes.plot(
                    range(len(curve.shares)),
                    [100 * share for share in curve.shares],
                    color=colour,
                    linestyle=dashes,
                    marker="o",
                    markersize=2.5,
                    label=f"first declined in {curve.month}",
                )
        axes.set_xlim(-0.4, CURVE_DAYS + 0.4)
        axes.set_ylim(0, 104)
        axes.set_xlabel("days since the first decline")
        axes.set_ylabel(f"share of {present.currency} recovered (%)")
        if present.shares or before.shares:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, **_LEGEND)
        return _to_svg(figure)


def _style(theme: Theme) -> Any:
    import matplotlib as mpl

    inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor")
    style: Any = {
        "svg.fonttype": "none",  # text stays text: small, and in the reader's own font
        "svg.hashsalt": "duecourse",
        "font.family": "sans-serif",
        "font.size": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": theme.line,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": theme.line,
        "grid.alpha": 0.5,
        "grid.linewidth": 0.5,
        "hatch.linewidth": 0.4,
        **dict.fromkeys(inked, theme.ink),
    }
    return mpl.rc_context(style)


def _figure(rows: int, heights: Sequence[float]) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    made = figure.subplots(rows, 1, sharex=True, height_ratios=heights, squeeze=False)
    axes: list[Axes] = [row[0] for row in made]
    for each in axes:
        each.patch.set_alpha(0)
    return figure, axes


def _whole_numbers(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:,.0f}"))


def _to_svg(figure: "Figure") -> str:
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return buffer.getvalue()
