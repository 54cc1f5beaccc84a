"""The overview: is money flowing, and if not, what is to be done?"""

from collections.abc import Mapping

import redis
import structlog
from dramatiq.brokers.redis import RedisBroker
from starlette.responses import Response

from shared.messaging.queue_depths import Depth, message_depths
from web.dashboard.alerts import alarms_of
from web.dashboard.pages.plots import attempt_plots, rate_in_words, recovery_plots
from web.dashboard.queries.alerts import gather_troubles
from web.dashboard.queries.overview import Overview, gather_overview
from web.dashboard.request_context import Visit

log = structlog.get_logger()


def show(visit: Visit) -> Response:
    """Everything at a glance. Alarms are as of now; figures may be a few seconds old, and say so."""
    with visit.read() as connection:
        troubles = gather_troubles(connection, visit.now, visit.machine_now)
    figures = present_figures(visit)
    depths = depths_of(visit.site.broker)
    return visit.page(
        "overview_figures.html" if visit.is_fragment else "overview.html",
        alarms=alarms_of(visit, troubles, depths, has_doorbell=visit.site.broker is not None),
        troubles=troubles,
        figures=figures,
        depths=depths or {},
        months=figures.money.months,
        present=figures.money.months[::2],
        hours_and_days=attempt_plots(figures.attempts),
        recovery=recovery_plots(figures.money.curves),
        success=rate_in_words(figures.attempts.last_24_hours.success_rate),
    )


def present_figures(visit: Visit) -> Overview:
    """Return the figures, gathered at most ten seconds ago."""

    def gather() -> Overview:
        with visit.read() as connection:
            return gather_overview(connection, visit.policy, visit.now, visit.machine_now)

    return visit.site.overview.get(lambda: visit.machine_now, gather)


def depths_of(broker: RedisBroker | None) -> Mapping[str, Depth] | None:
    """Return what waits in the doorbell, by queue; None if there is none or it doesn't answer."""
    if broker is None:
        return None
    try:
        return message_depths(broker)
    except redis.RedisError as error:
        log.warning("dashboard.redis_away", error=type(error).__name__)
        return None
