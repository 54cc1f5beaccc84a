"""Moves the virtual clock step by step, so that nothing due in between is skipped.

A step goes to the next moment at which anything is due, wakes the scheduler, and waits until all resulting work is
done. Two months pass exactly as in real time, without the waiting.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from shared.clock import machine_now as read_machine_clock
from shared.db.query_terms import is_, one_of
from shared.db.tables.payments import payments
from shared.db.tables.system import billing_events, business_clock
from shared.domain.schedule import next_moment
from shared.domain.states import CHARGEABLE, Lane
from shared.policy import Policy
from shared.scheduling.leader_lock import CLOCK_CHANNEL, is_scheduler_alive
from shared.scheduling.pending_work import pending_work
from shared.scheduling.runs import begin_schedule, schedule_of

#: Most steps are done within some 50 ms, so the first polls come fast. Where much is to do, polling would take CPU
#: from the workers, so the polls become rarer.
FIRST_POLL_S, LONGEST_POLL_S = 0.008, 0.15
#: A follower needs a tick to take over from a leader that died; a starting scheduler needs a second or two.
WAIT_FOR_LEADER_S = 10.0
#: Work that becomes due on the way (a month start creates payments, and leaves them to the sweep) must not wait
#: for the scheduler's own interval.
WAKE_AGAIN_EVERY_S = 0.2
#: The progress check is a second query, and matters only after a long wait.
LOOK_FOR_PROGRESS_EVERY_S = 0.5
#: No working process makes no progress for this long: a charge times out earlier.
STALLED_AFTER_S = 60.0

NEVER_SET = "the virtual clock is not set; run `duecourse clock set 2026-10-31T00:00:00Z`"


class ClockError(Exception):
    """The clock can't be moved as requested, or the resulting work isn't done; the message says what to do."""


@dataclass(frozen=True)
class Step:
    """One step, with the work that resulted from it."""

    at: datetime
    target: datetime
    waited_s: float


def written(moment: datetime) -> str:
    """Format an instant as the clock's commands read it: `2026-10-31T00:00:00Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def read_clock(connection: Connection) -> datetime | None:
    """Return the virtual clock's time; None if it was never set."""
    now: datetime | None = connection.scalar(select(business_clock.c.now_at))
    return now


def set_clock(connection: Connection, to: datetime, policy: Policy) -> None:
    """Set the clock to `to`, in the caller's transaction; ClockError if that is backwards.

    The first setting starts the schedule: runs due from then on are created.
    """
    before: datetime | None = connection.scalar(select(business_clock.c.now_at).with_for_update())
    if before is not None and to < before:
        raise ClockError(
            f"the clock only moves forward: it shows {written(before)}, which is after {written(to)}. "
            "To start over, use a fresh database."
        )
    begin_schedule(connection, policy, before or to)
    if before is None:
        connection.execute(
            insert(business_clock)
            .values(now_at=to)
            .on_conflict_do_nothing()  # of two operators at once, one sets it
        )
    else:
        connection.execute(update(business_clock).values(now_at=to))
    wake_scheduler(connection)


def wake_scheduler(connection: Connection) -> None:
    """Wake the scheduler once this transaction is committed; it listens in virtual time only."""
    connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CLOCK_CHANNEL})


def advance_clock(
    engine: Engine,
    policy: Policy,
    target: datetime,
    *,
    wait: bool = True,
    on_step: Callable[[Step], None] | None = None,
    stalled_after_s: float = STALLED_AFTER_S,
    machine_now: Callable[[], datetime] = read_machine_clock,
) -> int:
    """Move the virtual clock to `target`, stopping at every moment at which something is due; return the steps.

    With `wait`, each step waits until all due work is done; the first step also waits for work already due.
    ClockError if the clock was never set, if `target` is in the past, if no scheduler leads, or if there is no
    progress for `stalled_after_s` seconds: the message names the pending work, and the clock stays where it is.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watching:
        now = read_clock(watching)
        if now is None:
            raise ClockError(NEVER_SET)
        with engine.begin() as connection:
            set_clock(connection, now, policy)
            since = begin_schedule(connection, policy, now)
        waiting = _Waiting(watching, policy, since, stalled_after_s, machine_now)
        if wait:
            waiting.for_leader()
            waiting.until_done(now)
        steps = 0
        while now < target:
            now = next_stop(watching, policy, now, target)
            with engine.begin() as connection:
                set_clock(connection, now, policy)
            waited_s = waiting.until_done(now) if wait else 0.0
            steps += 1
            if on_step is not None:
                on_step(Step(now, target, waited_s))
    return steps


def next_stop(connection: Connection, policy: Policy, now: datetime, target: datetime) -> datetime:
    """Return the first moment after `now` at which a run or a payment is due, at most `target`."""
    chargeable = one_of(payments.c.state, CHARGEABLE)
    lanes = (
        select(func.min(payments.c.next_attempt_at))
        .where(chargeable, is_(payments.c.lane, lane), payments.c.next_attempt_at > now)
        .scalar_subquery()
        for lane in Lane
    )
    held = (
        select(func.min(payments.c.held_until))  # 'infinity' waits for an operator, not for the clock
        .where(chargeable, payments.c.held_until > now, payments.c.held_until < target)
        .scalar_subquery()
    )
    first: datetime | None = connection.scalar(select(func.least(*lanes, held)))
    return min(moment for moment in (first, target, next_moment(schedule_of(policy), now)) if moment is not None)


class _Waiting:
    """Waits for the work that a step made due, over one connection in autocommit."""

    def __init__(
        self,
        connection: Connection,
        policy: Policy,
        since: Mapping[str, datetime],
        stalled_after_s: float,
        machine_now: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._policy = policy
        self._since = since
        self._stalled_after_s = stalled_after_s
        self._machine_now = machine_now

    def for_leader(self) -> None:
        deadline = time.monotonic() + WAIT_FOR_LEADER_S
        while not is_scheduler_alive(self._connection):
            if time.monotonic() > deadline:
                raise ClockError(
                    "no scheduler is running, so moving the clock would have no effect: start `duecourse up` "
                    "in another terminal, or move the clock alone with --no-wait"
                )
            time.sleep(0.1)

    def until_done(self, now: datetime) -> float:
        """Wait until nothing is pending; return the seconds it took. ClockError if there is no progress."""
        began = changed = checked = enqueued = time.monotonic()
        last: tuple[dict[str, int], int] | None = None
        pause_s = FIRST_POLL_S
        while True:
            polled_at = time.monotonic()
            pending = pending_work(self._connection, self._policy, now, self._machine_now(), self._since)
            answered = time.monotonic()
            if not pending:
                return answered - began
            if answered - enqueued > WAKE_AGAIN_EVERY_S:
                enqueued = answered
                wake_scheduler(self._connection)
            if answered - checked > LOOK_FOR_PROGRESS_EVERY_S:
                checked = answered
                progress = (pending, self._last_event_id())
                if progress != last:
                    last, changed = progress, answered
                elif answered - changed > self._stalled_after_s:
                    raise ClockError(self._stalled(now, pending))
            pause_s = min(LONGEST_POLL_S, pause_s * 1.25)
            time.sleep(max(pause_s, answered - polled_at))

    def _last_event_id(self) -> int:
        return self._connection.scalar(select(func.max(billing_events.c.id))) or 0

    def _stalled(self, now: datetime, pending: Mapping[str, int]) -> str:
        named = ", ".join(f"{count} {name}" for name, count in pending.items())
        advice = (
            "Are the workers running? `duecourse up` starts them; `duecourse runs list` and the logs say more."
            if is_scheduler_alive(self._connection)
            else "No scheduler leads: start `duecourse up` and repeat the command."
        )
        return (
            f"the clock stands at {written(now)}, and there was no progress for {self._stalled_after_s:g} s. "
            f"Pending: {named}. {advice}"
        )
