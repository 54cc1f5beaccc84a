"""After the fire: let go of every fault, and wait until all is quiet."""

import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import text

from local.chaos.company import Company
from local.chaos.context import TROUBLES, ChaosContext
from local.chaos.executor import Fire
from local.chaos.servers import empty_valkey, free_disk
from shared.clock import machine_now
from shared.scheduling.pending_work import pending_work
from shared.scheduling.virtual_clock import ClockError, advance_clock, read_clock

POLL_S = 0.2
#: What is left is done within this time, or this time after the last payment's pause; an hour is the longest.
QUIET_WITHIN_S = 600.0
_LAST_PAUSE_S = """
    SELECT ceil(extract(epoch FROM max(backoff_until) - now())) FROM payments
    WHERE state IN ('due', 'retry_scheduled') AND backoff_until > now()
      AND next_attempt_at <= (SELECT now_at FROM business_clock)
"""
#: Everything is up: after a start, the virtual clock's first step may take so long.
READY_WITHIN_S = 60.0
#: A day without a fault, to see that what is scheduled is still asked for.
CALM_DAY = timedelta(days=1)

_STILL_OPEN = text("""
    SELECT (SELECT count(*) FROM payment_attempts WHERE state IN ('started', 'unknown')) AS "open attempts",
           (SELECT count(*) FROM payments WHERE state IN ('due', 'retry_scheduled') AND next_attempt_at <= :now
              AND (held_until IS NULL OR held_until <= :now)) AS "payments due or backing off",
           (SELECT count(*) FROM stripe_events WHERE state IN ('received', 'trouble')) AS "stripe events",
           (SELECT count(*) FROM runs WHERE state IN ('ready', 'running')) AS "unfinished runs"
""")


def let_go(scene: ChaosContext, fire: Fire) -> None:
    """End every fault: rules, limits, locks, full disk and memory; and have every process up."""
    fire.let_go()
    company = scene.company
    scene.until_done(scene.armoury.close)
    scene.until_done(lambda: free_disk(company))
    scene.until_done(lambda: empty_valkey(company))
    company.supervisor.wait_until_ready(READY_WITHIN_S)


def what_is_open(company: Company) -> dict[str, int]:
    """Everything that isn't done yet, by name; {} is quiet. Raises TROUBLES."""
    with company.connect() as connection:
        now = read_clock(connection)
        if now is None:
            raise ValueError("the clock was never set")
        found = pending_work(connection, company.stack.policy, now, machine_now())
        still: dict[str, int] = dict(connection.execute(_STILL_OPEN, {"now": now}).one()._asdict())
    with company.simulator() as simulator:
        still["webhooks on their way"] = simulator.webhook_stats().pending
    return {**found, **{name: count for name, count in still.items() if count}}


def until_quiet(
    scene: ChaosContext, on_look: Callable[[dict[str, int]], None], within_s: float = QUIET_WITHIN_S
) -> dict[str, int]:
    """Wait until nothing is open; return what still is after `within_s` seconds, or that after the last pause."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            left = what_is_open(scene.company)
            if pause_s := scene.company.scalar(_LAST_PAUSE_S):
                deadline = max(deadline, time.monotonic() + pause_s + within_s / 10)
        except TROUBLES as trouble:
            left = {f"no look was possible: {type(trouble).__name__}": 1}
        if not left or time.monotonic() > deadline:
            return left
        on_look(left)
        time.sleep(POLL_S)


def live_a_calm_day(scene: ChaosContext) -> str | None:
    """Advance the clock by a day, stop by stop; return why that got stuck, if it did."""
    company = scene.company
    try:
        advance_clock(company.engine, company.stack.policy, scene.now() + CALM_DAY)
    except ClockError as error:
        return str(error)
    return None
