"""Every actor on one page: one line each over a use case of the same name. Dramatiq starts from here.

`max_retries=0` everywhere: the row is still due, and the sweep enqueues it again. An actor's error is in the log;
its message becomes a dead letter (ids only; the newest thousand per queue are kept). Correctness depends on
neither.
"""

from functools import cache
from uuid import UUID

import dramatiq
from sqlalchemy import Engine

from shared.failpoints import arm
from shared.logs import configure_logs
from shared.messaging.broker import make_broker
from shared.messaging.jobs import BATCH, INTERACTIVE, RECONCILIATION_QUEUE, RUNS, SETTLEMENT
from shared.messaging.queue_pauses import PauseWatch, pauses_query
from shared.operations.heartbeats import WorkerHeartbeats
from shared.runtime import Runtime, build_runtime
from shared.settings import load_settings
from workers import use_cases
from workers.stripe_account_check import StripeAccountCheck

settings = load_settings()
configure_logs("worker", settings.log_level)
arm(settings.crash_plan)


def _runtime() -> Runtime:
    return runtime()


def _engine() -> Engine:
    return runtime().engine


pauses = PauseWatch(pauses_query(_engine))
checks = (WorkerHeartbeats(_engine), StripeAccountCheck(_runtime))
broker = make_broker(settings.redis_url.get_secret_value(), checks, pauses.is_paused)
dramatiq.set_broker(broker)

#: Two requests of at most connect + read timeout, and recording; well below the lease of 5 minutes (ms).
CHARGE_TIME_LIMIT_MS = 90_000
#: A run works in short chunks and enqueues itself again after some 20 s; this stops only a chunk that hangs (ms).
RUN_TIME_LIMIT_MS = 300_000
#: A chunk of a run takes some 0.5 s, everything else milliseconds; a time limit can't interrupt the driver (s).
STATEMENT_LIMIT_S = 60


@cache
def runtime() -> Runtime:
    """Built at first use, after the fork: processes share no connection."""
    return build_runtime(settings, broker=broker, statement_limit_s=STATEMENT_LIMIT_S)


@dramatiq.actor(queue_name=BATCH, actor_name="charge_payment", time_limit=CHARGE_TIME_LIMIT_MS)
def charge_payment(payment_id: str) -> None:
    """Charge one payment. Safe to deliver twice: the use case claims the attempt first."""
    use_cases.charge_payment(runtime(), UUID(payment_id))


@dramatiq.actor(queue_name=SETTLEMENT, time_limit=CHARGE_TIME_LIMIT_MS)
def settle_attempt(attempt_id: str) -> None:
    """Look up the outcome of an attempt. Safe to deliver twice: each turn looks up once."""
    use_cases.settle_attempt(runtime(), UUID(attempt_id))


@dramatiq.actor(queue_name=INTERACTIVE, time_limit=CHARGE_TIME_LIMIT_MS)
def apply_stripe_event(coverage: str, stripe_event_id: str) -> None:
    """Apply one stored Stripe event. Safe to deliver twice: it is marked as applied with its effects."""
    use_cases.apply_stripe_event(runtime(), coverage, stripe_event_id)


@dramatiq.actor(queue_name=RUNS, time_limit=RUN_TIME_LIMIT_MS, priority=-1)  # before charges in the same worker
def generate_invoices(run_id: str) -> None:
    """Continue a monthly run. Safe to deliver twice: chunks take turns on the run's row."""
    use_cases.generate_invoices(runtime(), UUID(run_id))


@dramatiq.actor(queue_name=RUNS, time_limit=RUN_TIME_LIMIT_MS, priority=-1)
def retry_payments(run_id: str) -> None:
    """Continue a daily run. Safe to deliver twice: chunks take turns on the run's row."""
    use_cases.retry_payments(runtime(), UUID(run_id))


@dramatiq.actor(queue_name=SETTLEMENT, time_limit=CHARGE_TIME_LIMIT_MS)
def close_payment(payment_id: str) -> None:
    """Close one payment with a pending close. Safe to deliver twice: the use case claims the attempt first."""
    use_cases.close_payment(runtime(), UUID(payment_id))


@dramatiq.actor(queue_name=SETTLEMENT, time_limit=CHARGE_TIME_LIMIT_MS)
def end_payment(payment_id: str) -> None:
    """`close_payment` under its earlier name, for messages that an older release left in Redis."""
    use_cases.close_payment(runtime(), UUID(payment_id))


@dramatiq.actor(queue_name=RUNS, time_limit=RUN_TIME_LIMIT_MS)
def apply_bulk_action(bulk_id: str) -> None:
    """Continue a bulk action. Safe to deliver twice: chunks take turns on its row."""
    use_cases.apply_bulk_action(runtime(), UUID(bulk_id))


@dramatiq.actor(
    queue_name=RECONCILIATION_QUEUE, time_limit=RUN_TIME_LIMIT_MS, priority=1
)  # no other work depends on it: after charges
def reconcile_charges(run_id: str) -> None:
    """Continue a nightly reconciliation run. Safe to deliver twice: the second worker writes nothing."""
    use_cases.reconcile_charges(runtime(), UUID(run_id))
