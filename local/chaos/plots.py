"""The timeline of a run as an SVG that is readable on light and dark: its words take the page's own colour."""

import io
import re
from typing import TYPE_CHECKING, Any

from local.chaos.kinds import BY_NAME, KINDS, Group
from local.chaos.outcome import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Stands for the page's text colour until the SVG is written.
_INK = "#010203"
#: Middling in lightness: enough contrast on white and on near-black, told apart by the colour-blind (Okabe–Ito).
_COLOURS = {
    Group.REQUEST: "#0079c1",
    Group.WEBHOOK: "#c78a00",
    Group.PROCESS: "#d55e00",
    Group.VALKEY: "#b0558f",
    Group.POSTGRES: "#00976e",
    Group.MESSAGE: "#8a8a8a",
    Group.CLOCK: "#7a6bd1",
    Group.PEOPLE: "#3fa0d8",
}


def timeline(outcome: Outcome) -> str:
    """Draw faults, charges, open attempts and pending work over the run's seconds."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "duecourse",
        "font.size": 9,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor"),
            _INK,
        ),
    }
    with mpl.rc_context(style):
        kinds = [kind.name for kind in KINDS if kind.name in outcome.hit()]
        height = 0.145 * len(kinds) + 6.5
        figure, axes = plt.subplots(
            4, 1, sharex=True, figsize=(10.5, height), height_ratios=[0.145 * len(kinds) + 0.3, 1.7, 1.7, 1.7]
        )
        _faults(axes[0], outcome, kinds)
        _captured(axes[1], outcome)
        _open(axes[2], outcome)
        _pending(axes[3], outcome)
        for each in axes:
            each.axvline(outcome.let_go_s, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
            each.patch.set_alpha(0)
        axes[3].set_xlabel("seconds since the fire began (the dashed line: every fault is let go)")
        axes[3].set_xlim(0, outcome.let_go_s + outcome.quiet_s + 1)
        figure.tight_layout(h_pad=1.2)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return _for_the_page(written.getvalue())


def _faults(axes: "Axes", outcome: Outcome, kinds: list[str]) -> None:
    rows = {name: row for row, name in enumerate(reversed(kinds))}
    for group, colour in _COLOURS.items():
        hits = [hit for hit in outcome.hits if BY_NAME[hit.kind].group is group]
        if hits:
            sizes = [8 + 7 * min(hit.count, 6) for hit in hits]
            axes.scatter(
                [hit.at_s for hit in hits],
                [rows[hit.kind] for hit in hits],
                s=sizes,
                color=colour,
                alpha=0.75,
                linewidths=0,
            )
    axes.set_yticks(range(len(kinds)), [name.replace("_", " ") for name in reversed(kinds)], fontsize=7)
    axes.set_ylim(-0.8, len(kinds) - 0.2)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=_INK, alpha=0.1, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_title("Faults that hit, by kind (larger: several within a moment)", loc="left", fontsize=10)


def _captured(axes: "Axes", outcome: Outcome) -> None:
    booked = sorted(outcome.booked_s)
    end = outcome.let_go_s + outcome.quiet_s
    axes.step([0, *booked, end], [0, *range(1, len(booked) + 1), len(booked)], where="post", color="#0079c1")
    axes.set_ylabel("charges")
    axes.set_title("Captured charges, as they came into our books", loc="left", fontsize=10)
    axes.set_ylim(bottom=0)


def _open(axes: "Axes", outcome: Outcome) -> None:
    at = [sample.at_s for sample in outcome.samples]
    started = [sample.started for sample in outcome.samples]
    unknown = [sample.unknown for sample in outcome.samples]
    axes.plot(at, started, color="#00976e", linewidth=1.1, label="under way")
    axes.plot(at, unknown, color="#d55e00", linewidth=1.1, label="unknown: settlement owns them")
    axes.set_ylabel("attempts")
    axes.set_title("Open attempts", loc="left", fontsize=10)
    _legend(axes)


def _pending(axes: "Axes", outcome: Outcome) -> None:
    at = [sample.at_s for sample in outcome.samples]
    axes.plot(
        at, [s.due for s in outcome.samples], color="#0079c1", linewidth=1.1, label="payments due or backing off"
    )
    events = [sample.stripe_events for sample in outcome.samples]
    axes.plot(at, events, color="#c78a00", linewidth=1.1, label="events of the processor not applied")
    axes.set_ylabel("rows")
    axes.set_title("Pending work", loc="left", fontsize=10)
    _legend(axes)


def _legend(axes: "Axes") -> None:
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), frameon=False, fontsize=8, ncols=2)


def _for_the_page(svg: str) -> str:
    """Without the file's head and fixed size, and with the page's own ink."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    return body.replace(_INK, "currentColor")
