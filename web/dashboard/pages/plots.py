"""The overview's plots: each as a summary, as a data table and as an SVG document."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from starlette.responses import Response

from web.dashboard import plotting
from web.dashboard.current_metrics import current_metrics
from web.dashboard.formatting import count, money
from web.dashboard.plotting import THEMES, Theme
from web.dashboard.queries.attempt_metrics import AttemptMetrics, Attempts, Slot
from web.dashboard.queries.money_metrics import Curve
from web.dashboard.queries.overview import Overview
from web.dashboard.request_context import RequestContext

#: matplotlib writes inline styles into the document; everything else is forbidden.
PLOT_CSP = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@dataclass(frozen=True)
class Plot:
    """A plot as the page shows it: `summary` is its text, `rows` its data."""

    name: str
    title: str
    summary: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    draw: Callable[[Theme], str]

    @cached_property
    def version(self) -> str:
        """Changes with the data, so that a browser reloads the picture only then."""
        return hashlib.sha256(repr((self.title, self.columns, self.rows)).encode()).hexdigest()[:16]


def draw(context: RequestContext) -> Response:
    """Respond with one plot, `light` or `dark`."""
    name, theme = context.request.path_params["name"], context.query_text("theme", 10)
    theme = theme if theme in THEMES else "light"
    plot = next((each for each in plots_of(current_metrics(context)) if each.name == name), None)
    if plot is None:
        context.not_found("Plot")
    svg = context.site.plots.get((name, theme, plot.version), lambda: plot.draw(THEMES[theme]))
    return Response(svg, media_type="image/svg+xml", headers={"Content-Security-Policy": PLOT_CSP})


def plots_of(metrics: Overview) -> tuple[Plot, ...]:
    """Return all plots of these metrics; none is drawn yet."""
    return (*attempt_plots(metrics.attempts), *recovery_plots(metrics.money.curves))


@lru_cache(maxsize=4)  # the metrics are cached for seconds, so are their texts
def attempt_plots(metrics: AttemptMetrics) -> tuple[Plot, Plot]:
    """Return the plots of the last hours and of the last days."""
    return (
        _attempts(metrics, metrics.hours, "attempts-hours", by_hour=True),
        _attempts(metrics, metrics.days, "attempts-days", by_hour=False),
    )


def _attempts(metrics: AttemptMetrics, slots: tuple[Slot, ...], name: str, *, by_hour: bool) -> Plot:
    zone = metrics.zone
    local = tuple(Slot(slot.begins_at.astimezone(zone), slot.attempts) for slot in slots)
    shown = "%Y-%m-%d %H:%M" if by_hour else "%Y-%m-%d"
    span = f"the last {len(slots)} {'hours' if by_hour else 'days'}"
    return Plot(
        name=name,
        title=f"Attempts in {span}",
        summary=_attempts_summary(local, span, by_hour=by_hour),
        columns=(
            f"{'Hour' if by_hour else 'Day'} from ({zone.key})",
            "Succeeded",
            "Declined",
            "Authentication needed",
            "Not sent",
            "Success rate",
        ),
        rows=tuple((slot.begins_at.strftime(shown), *_numbers(slot.attempts)) for slot in local),
        draw=lambda theme: plotting.draw_attempts(local, by_hour=by_hour, zone=zone.key, theme=theme),
    )


def _numbers(attempts: Attempts) -> tuple[str, ...]:
    counted = (attempts.succeeded, attempts.declined, attempts.authentication_needed, attempts.not_sent)
    return (*(count(number) for number in counted), show_rate(attempts.success_rate))


def show_rate(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.1f} %"


def _attempts_summary(slots: tuple[Slot, ...], span: str, *, by_hour: bool) -> str:
    total = sum(slot.attempts.answered for slot in slots)
    if not total:
        return f"No answered attempts in {span}."
    succeeded = sum(slot.attempts.succeeded for slot in slots)
    most = max(slots, key=lambda slot: slot.attempts.answered)
    when = f"in the hour from {most.begins_at:%H:%M}" if by_hour else f"on {most.begins_at:%B} {most.begins_at.day}"
    return (
        f"Of {count(total)} answered attempts in {span}, {100 * succeeded / total:.1f} % succeeded; "
        f"peak: {count(most.attempts.answered)} {when}."
    )


@lru_cache(maxsize=4)
def recovery_plots(curves: tuple[Curve, ...]) -> tuple[Plot, ...]:
    """Return one plot per coverage: amounts in different currencies aren't added."""
    return tuple(_recovery(present, before) for present, before in zip(curves[::2], curves[1::2], strict=True))


def _recovery(present: Curve, before: Curve) -> Plot:
    days = range(max(len(present.shares), len(before.shares)))
    return Plot(
        name=f"recovery-{present.coverage}",
        title=f"Recovered after a decline, {present.coverage}",
        summary=f"{_recovery_summary(present)} {_recovery_summary(before)}",
        columns=("Days since the first decline", f"First declined in {present.month}", f"In {before.month}"),
        rows=tuple((str(day), _share(present, day), _share(before, day)) for day in days),
        draw=lambda theme: plotting.draw_recovery(present, before, theme=theme),
    )


def _share(curve: Curve, day: int) -> str:
    return show_rate(curve.shares[day]) if day < len(curve.shares) else "–"


def _recovery_summary(curve: Curve) -> str:
    if not curve.declined.payments:
        return f"No first declines in {curve.month}."
    share = curve.recovered.amount_minor / curve.declined.amount_minor if curve.declined.amount_minor else 0.0
    return (
        f"Of {money(curve.declined.amount_minor, curve.currency)} first declined in {curve.month}, "
        f"{100 * share:.1f} % is recovered so far."
    )
