"""The overview: alerts, key metrics, and the state of runs, queues and processes."""

from collections.abc import Mapping

import redis
import structlog
from dramatiq.brokers.redis import RedisBroker
from starlette.responses import Response

from shared.messaging.queue_depths import Depth, message_depths
from web.dashboard.alerts import alerts_of
from web.dashboard.current_metrics import current_metrics
from web.dashboard.pages.plots import attempt_plots, recovery_plots, show_rate
from web.dashboard.queries.alerts import gather_alert_facts
from web.dashboard.request_context import RequestContext

log = structlog.get_logger()


def show(context: RequestContext) -> Response:
    """Alerts are current; metrics may be a few seconds old, and the page says so."""
    with context.read() as connection:
        facts = gather_alert_facts(connection, context.now, context.machine_now)
    metrics = current_metrics(context)
    depths = depths_of(context.site.broker)
    return context.page(
        "overview_metrics.html" if context.is_fragment else "overview.html",
        alert_facts=facts,
        alerts=alerts_of(context, facts, depths, has_doorbell=context.site.broker is not None),
        metrics=metrics,
        depths=depths or {},
        months=metrics.money.months,
        present=metrics.money.months[::2],
        hours_and_days=attempt_plots(metrics.attempts),
        recovery=recovery_plots(metrics.money.curves),
        success=show_rate(metrics.attempts.last_24_hours.success_rate),
    )


def depths_of(broker: RedisBroker | None) -> Mapping[str, Depth] | None:
    """Return the queue depths in Redis; None without Redis or if it doesn't respond."""
    if broker is None:
        return None
    try:
        return message_depths(broker)
    except redis.RedisError as error:
        log.warning("dashboard.redis_away", error=type(error).__name__)
        return None
