"""The overview's metrics as of now, cached: the overview and its plots show the same ones."""

from web.dashboard.queries.overview import Overview, gather_overview
from web.dashboard.request_context import RequestContext


def current_metrics(context: RequestContext) -> Overview:
    """Return the metrics, gathered at most ten seconds ago."""

    def gather() -> Overview:
        with context.read() as connection:
            return gather_overview(connection, context.policy, context.now, context.machine_now)

    return context.site.overview.get(lambda: context.machine_now, gather)
