"""After the fault phase: release every fault, and wait until no work is pending."""

import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import text

from local.chaos.company import Company
from local.chaos.context import EXPECTED_ERRORS, ChaosContext
from local.chaos.executor import Executor
from local.chaos.servers import empty_valkey, free_disk
from shared.clock import machine_now
from shared.scheduling.pending_work import pending_work
from shared.scheduling.virtual_clock import ClockError, advance_clock, read_clock

POLL_S = 0.2
#: The work left is done within this time, or within a tenth of it after the last backoff; an hour is the longest.
NO_PENDING_WORK_WITHIN_S = 600.0
_LAST_BACKOFF_S = """
    SELECT ceil(extract(epoch FROM max(backoff_until) - now())) FROM payments
    WHERE state IN ('due', 'retry_scheduled') AND backoff_until > now()
      AND next_attempt_at <= (SELECT now_at FROM business_clock)
"""
#: All processes are up within this time after the last fault.
READY_WITHIN_S = 60.0
#: A day without faults, to check that scheduled charges are still made.
FAULT_FREE_DAY = timedelta(days=1)

_STILL_OPEN = text("""
    SELECT (SELECT count(*) FROM payment_attempts WHERE state IN ('started', 'unknown')) AS "open attempts",
           (SELECT count(*) FROM payments WHERE state IN ('due', 'retry_scheduled') AND next_attempt_at <= :now
              AND (held_until IS NULL OR held_until <= :now)) AS "payments due or backing off",
           (SELECT count(*) FROM stripe_events WHERE state IN ('received', 'trouble')) AS "stripe events",
           (SELECT count(*) FROM runs WHERE state IN ('ready', 'running')) AS "unfinished runs"
""")


def release_faults(context: ChaosContext, executor: Executor) -> None:
    """End every fault (rules, limits, locks, full disk and memory), and wait until every process is up."""
    executor.finish()
    company = context.company
    context.retry_until_done(context.fault_queue.close)
    context.retry_until_done(lambda: free_disk(company))
    context.retry_until_done(lambda: empty_valkey(company))
    company.supervisor.wait_until_ready(READY_WITHIN_S)


def open_work(company: Company) -> dict[str, int]:
    """Return the counts of unfinished work by name, {} if there is none. Raises EXPECTED_ERRORS."""
    with company.connect() as connection:
        now = read_clock(connection)
        if now is None:
            raise ValueError("the clock is not set")
        found = pending_work(connection, company.stack.policy, now, machine_now())
        still: dict[str, int] = dict(connection.execute(_STILL_OPEN, {"now": now}).one()._asdict())
    with company.simulator() as simulator:
        still["undelivered webhooks"] = simulator.webhook_stats().pending
    return {**found, **{name: count for name, count in still.items() if count}}


def wait_for_no_pending_work(
    context: ChaosContext, on_poll: Callable[[dict[str, int]], None], within_s: float = NO_PENDING_WORK_WITHIN_S
) -> dict[str, int]:
    """Wait until no work is open. Return what is still open after the time limit, {} on success."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            left = open_work(context.company)
            if backoff_s := context.company.scalar(_LAST_BACKOFF_S):
                deadline = max(deadline, time.monotonic() + backoff_s + within_s / 10)
        except EXPECTED_ERRORS as error:
            left = {f"open work can't be read: {type(error).__name__}": 1}
        if not left or time.monotonic() > deadline:
            return left
        on_poll(left)
        time.sleep(POLL_S)


def advance_fault_free_day(context: ChaosContext) -> str | None:
    """Advance the clock by a day, stop by stop; return why it got stuck, or None."""
    company = context.company
    try:
        advance_clock(company.engine, company.stack.policy, context.now() + FAULT_FREE_DAY)
    except ClockError as error:
        return str(error)
    return None
