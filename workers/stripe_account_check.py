"""A worker refuses to start with the API key of another Stripe account."""

from collections.abc import Callable

import structlog
from dramatiq import Broker, Middleware

from shared.operations.stripe_accounts import WHAT_TO_DO, check_accounts
from shared.runtime import Runtime

log = structlog.get_logger()


class StripeAccountCheck(Middleware):
    """Checks once in each process, before it takes a message. Dramatiq then stops the other processes too.

    An outage of Stripe doesn't keep a worker from starting: its gateways ask again before their first request.
    """

    def __init__(self, runtime: Callable[[], Runtime]) -> None:
        self._runtime = runtime

    def after_process_boot(self, broker: Broker) -> None:  # noqa: ARG002  # Dramatiq's signature
        runtime = self._runtime()
        others = check_accounts(runtime.engine, runtime.gateways, runtime.machine_now)
        for other in others:
            log.error("worker.not_started", reason=str(other), to_do=WHAT_TO_DO)
        if others:
            raise SystemExit("\n".join(f"worker not started: {other}. To do: {WHAT_TO_DO}." for other in others))
