"""The overview: is money flowing, and if not, what is to be done?"""

from collections.abc import Mapping

import redis
import structlog
from dramatiq.brokers.redis import RedisBroker
from starlette.responses import Response

from shared.messaging.queue_depths import Depth, message_depths
from web.dashboard.alerts import alerts_of
from web.dashboard.current_metrics import current_metrics
from web.dashboard.pages.plots import attempt_plots, rate_in_words, recovery_plots
from web.dashboard.queries.alerts import gather_alerts
from web.dashboard.request_context import RequestContext

log = structlog.get_logger()


def show(context: RequestContext) -> Response:
    """Everything at a glance. Alarms are as of now; figures may be a few seconds old, and say so."""
    with context.read() as connection:
        waiting = gather_alerts(connection, context.now, context.machine_now)
    figures = current_metrics(context)
    depths = depths_of(context.site.broker)
    return context.page(
        "overview_figures.html" if context.is_fragment else "overview.html",
        troubles=waiting,
        alerts=alerts_of(context, waiting, depths, has_doorbell=context.site.broker is not None),
        figures=figures,
        depths=depths or {},
        months=figures.money.months,
        present=figures.money.months[::2],
        hours_and_days=attempt_plots(figures.attempts),
        recovery=recovery_plots(figures.money.curves),
        success=rate_in_words(figures.attempts.last_24_hours.success_rate),
    )


def depths_of(broker: RedisBroker | None) -> Mapping[str, Depth] | None:
    """Return what waits in the doorbell, by queue; None if there is none or it doesn't answer."""
    if broker is None:
        return None
    try:
        return message_depths(broker)
    except redis.RedisError as error:
        log.warning("dashboard.redis_away", error=type(error).__name__)
        return None
