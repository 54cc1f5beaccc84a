"""Failpoints: every step between two transactions or requests has a name, at which a process can be crashed.

Disarmed, as always in production, a failpoint costs one read of a module variable. Tests arm them in process; a
real process is armed by `DUECOURSE_CRASH_AT` and `DUECOURSE_CRASH_PROBABILITY` (refused together with a live Stripe
key), and its crash is SIGKILL: the process rolls back, answers, logs and closes nothing.

A transaction gets its failpoints from `in_transaction(…, step=…)`, a request from `request`
(shared/gateway/port.py). Steps written by hand need a `reach` on both sides;
tests/failpoints checks all of them.
"""

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import structlog

log = structlog.get_logger()


class Failpoint(StrEnum):
    """Where a process can crash. Scripts of drills use the names, so RENAMED keeps the old ones.

    `.sending` is before a request is sent, `.sent` after its answer arrived and before it is used;
    `.before_commit` is the end of a transaction, where it can still be rolled back.
    """

    CHARGE_BEGUN = "charge.begun"
    CHARGE_CLAIM_INTENT_WRITTEN = "charge.claim.intent_written"
    CHARGE_CLAIM_BEFORE_COMMIT = "charge.claim.before_commit"
    CHARGE_PARK_BEFORE_COMMIT = "charge.park.before_commit"
    CHARGE_CLAIMED = "charge.claimed"
    CHARGE_CREATE_SENDING = "charge.create.sending"
    CHARGE_CREATE_SENT = "charge.create.sent"
    CHARGE_CONFIRM_ALLOWING = "charge.confirm_allow.begun"
    CHARGE_CONFIRM_ALLOW_BEFORE_COMMIT = "charge.confirm_allow.before_commit"
    CHARGE_CONFIRM_ALLOWED = "charge.confirm_allow.committed"
    CHARGE_CONFIRM_SENDING = "charge.confirm.sending"
    CHARGE_CONFIRM_SENT = "charge.confirm.sent"
    CHARGE_CANCEL_SENDING = "charge.cancel.sending"
    CHARGE_CANCEL_SENT = "charge.cancel.sent"
    CHARGE_REFUSED_SENDING = "charge.refused.sending"
    CHARGE_REFUSED_SENT = "charge.refused.sent"
    CHARGE_RECORDED = "charge.recorded"

    RECORD_ANSWER_BEGUN = "record.answer.begun"
    RECORD_ANSWER_BEFORE_COMMIT = "record.answer.before_commit"
    RECORD_ANSWER_COMMITTED = "record.answer.committed"
    RECORD_OBSERVATION_BEGUN = "record.observation.begun"
    RECORD_OBSERVATION_BEFORE_COMMIT = "record.observation.before_commit"
    RECORD_OBSERVATION_COMMITTED = "record.observation.committed"
    RECORD_ERROR_BEGUN = "record.error.begun"
    RECORD_ERROR_BEFORE_COMMIT = "record.error.before_commit"
    RECORD_ERROR_COMMITTED = "record.error.committed"
    RECORD_INTENT_WRITTEN = "record.intent_written"
    RECORD_ATTEMPT_WRITTEN = "record.attempt_written"

    END_BEGUN = "end.begun"
    END_AT_ONCE_BEFORE_COMMIT = "end.at_once.before_commit"
    END_CLAIM_BEFORE_COMMIT = "end.claim.before_commit"
    END_CLAIMED = "end.claimed"

    BULK_CHUNK_BEGUN = "bulk.chunk.begun"
    BULK_CHUNK_BEFORE_COMMIT = "bulk.chunk.before_commit"
    BULK_FINISH_BEFORE_COMMIT = "bulk.finish.before_commit"
    BULK_CHUNK_COMMITTED = "bulk.chunk.committed"
    BULK_CHUNK_RUNG = "bulk.chunk.rung"
    BULK_RINGING = "bulk.ringing"

    SETTLE_TURN_BEGUN = "settle.turn.begun"
    SETTLE_TURN_BEFORE_COMMIT = "settle.turn.before_commit"
    SETTLE_TURN_COMMITTED = "settle.turn.committed"
    SETTLE_LOOK_UP_SENDING = "settle.look_up.sending"
    SETTLE_LOOK_UP_SENT = "settle.look_up.sent"
    SETTLE_RECORDED = "settle.recorded"

    GENERATE_CHUNK_BEGUN = "generate.chunk.begun"
    GENERATE_CHUNK_GATHERED = "generate.chunk.gathered"
    GENERATE_CHUNK_NUMBERED = "generate.chunk.numbered"
    GENERATE_CHUNK_WRITTEN = "generate.chunk.written"
    GENERATE_CHUNK_BEFORE_COMMIT = "generate.chunk.before_commit"
    GENERATE_CHUNK_COMMITTED = "generate.chunk.committed"
    GENERATE_RINGING = "generate.ringing"

    RUN_STARTED = "run.started"
    RUN_FINISH_BEFORE_COMMIT = "run.finish.before_commit"

    RETRY_CHUNK_BEGUN = "retry.chunk.begun"
    RETRY_CHUNK_BEFORE_COMMIT = "retry.chunk.before_commit"
    RETRY_CHUNK_COMMITTED = "retry.chunk.committed"
    RETRY_CHUNK_RUNG = "retry.chunk.rung"
    RETRY_RINGING = "retry.ringing"

    EVENT_BEGUN = "event.begun"
    EVENT_CLAIM_BEFORE_COMMIT = "event.claim.before_commit"
    EVENT_ECHO_BEFORE_COMMIT = "event.echo.before_commit"
    EVENT_CLAIMED = "event.claimed"
    EVENT_SETUP_INTENT_SENDING = "event.setup_intent.sending"
    EVENT_SETUP_INTENT_SENT = "event.setup_intent.sent"
    EVENT_NEW_CARD_SENDING = "event.new_card.sending"
    EVENT_NEW_CARD_SENT = "event.new_card.sent"
    EVENT_STORED_CARD_SENDING = "event.stored_card.sending"
    EVENT_STORED_CARD_SENT = "event.stored_card.sent"
    EVENT_PAYMENT_INTENT_SENDING = "event.payment_intent.sending"
    EVENT_PAYMENT_INTENT_SENT = "event.payment_intent.sent"
    EVENT_CHARGE_SENDING = "event.charge.sending"
    EVENT_CHARGE_SENT = "event.charge.sent"
    EVENT_APPLY_BEGUN = "event.apply.begun"
    EVENT_CARD_STORED = "event.apply.card_stored"
    EVENT_CARD_MADE_PRIMARY = "event.apply.card_made_primary"
    EVENT_APPLY_BEFORE_COMMIT = "event.apply.before_commit"
    EVENT_APPLY_COMMITTED = "event.apply.committed"
    EVENT_RUNG = "event.rung"
    EVENT_POSTPONING = "event.postpone.begun"
    EVENT_POSTPONE_BEFORE_COMMIT = "event.postpone.before_commit"
    EVENT_POSTPONED = "event.postpone.committed"
    EVENT_TROUBLE_BEGUN = "event.trouble.begun"
    EVENT_TROUBLE_BEFORE_COMMIT = "event.trouble.before_commit"
    EVENT_TROUBLE_NOTED = "event.trouble.committed"

    RECONCILE_START_BEGUN = "reconcile.start.begun"
    RECONCILE_START_BEFORE_COMMIT = "reconcile.start.before_commit"
    RECONCILE_START_COMMITTED = "reconcile.start.committed"
    RECONCILE_LOOK_SENDING = "reconcile.look.sending"
    RECONCILE_LOOK_SENT = "reconcile.look.sent"
    RECONCILE_ANNOUNCING = "reconcile.announce.begun"
    RECONCILE_ANNOUNCE_BEFORE_COMMIT = "reconcile.announce.before_commit"
    RECONCILE_ANNOUNCED = "reconcile.announce.committed"
    RECONCILE_ROW_FINDING = "reconcile.row.begun"
    RECONCILE_ROW_BEFORE_COMMIT = "reconcile.row.before_commit"
    RECONCILE_ROW_FOUND = "reconcile.row.committed"
    RECONCILE_ABANDON_BEGUN = "reconcile.abandon.begun"
    RECONCILE_ABANDON_BEFORE_COMMIT = "reconcile.abandon.before_commit"
    RECONCILE_ABANDON_COMMITTED = "reconcile.abandon.committed"
    RECONCILE_CANCEL_SENDING = "reconcile.cancel.sending"
    RECONCILE_CANCEL_SENT = "reconcile.cancel.sent"
    RECONCILE_CHUNK_BEGUN = "reconcile.chunk.begun"
    RECONCILE_CHUNK_BEFORE_COMMIT = "reconcile.chunk.before_commit"
    RECONCILE_CHUNK_COMMITTED = "reconcile.chunk.committed"
    RECONCILE_RESTING = "reconcile.rest.begun"
    RECONCILE_REST_BEFORE_COMMIT = "reconcile.rest.before_commit"
    RECONCILE_RESTED = "reconcile.rest.committed"
    RECONCILE_RINGING = "reconcile.ringing"

    WEBHOOK_STORE_BEGUN = "webhook.store.begun"
    WEBHOOK_STORE_BEFORE_COMMIT = "webhook.store.before_commit"
    WEBHOOK_STORE_COMMITTED = "webhook.store.committed"
    WEBHOOK_ANSWERED = "webhook.answered"

    LEAD_TAKEN = "lead.taken"
    TICK_BEGUN = "tick.decide.begun"
    TICK_DECIDE_BEFORE_COMMIT = "tick.decide.before_commit"
    TICK_DECIDED = "tick.decide.committed"
    TICK_RUN_INSERTING = "tick.run.begun"
    TICK_RUN_BEFORE_COMMIT = "tick.run.before_commit"
    TICK_RUN_INSERTED = "tick.run.committed"
    TICK_RUNG = "tick.rung"
    WAKE_BEGUN = "wake.begun"
    WAKE_BEFORE_COMMIT = "wake.before_commit"
    WAKE_ENDED = "wake.committed"
    SWEEP_BEGUN = "sweep.begun"
    SWEEP_FOUND = "sweep.found"
    SWEEP_RUNG = "sweep.rung"

    @classmethod
    def _missing_(cls, value: object) -> "Failpoint | None":
        current = RENAMED.get(str(value))
        return None if current is None else cls(current)


#: Old names that scripts may still use, with the current ones.
RENAMED: Mapping[str, str] = {
    "settle.begun": "settle.turn.begun",
    "settle.turn_taken": "settle.turn.committed",
    "event.fetched": "event.apply.begun",
    "event.applied": "event.apply.committed",
    "reconcile.begun": "reconcile.start.begun",
    "reconcile.started": "reconcile.start.committed",
    "reconcile.abandoned": "reconcile.abandon.committed",
    "reconcile.chunk.seen": "reconcile.chunk.begun",
    "webhook.received": "webhook.store.begun",
    "webhook.stored": "webhook.store.committed",
    "event.trouble_noted": "event.trouble.committed",
    "wake.ended": "wake.committed",
    "charge.confirm_allowed": "charge.confirm_allow.committed",
    "event.postponed": "event.postpone.committed",
    "reconcile.announced": "reconcile.announce.committed",
    "reconcile.row_found": "reconcile.row.committed",
    "reconcile.rested": "reconcile.rest.committed",
    "tick.begun": "tick.decide.begun",
    "tick.decided": "tick.decide.committed",
    "tick.run_inserted": "tick.run.committed",
    "settle.looked_up": "settle.look_up.sent",
    "event.setup_intent.fetched": "event.setup_intent.sent",
    "event.new_card.fetched": "event.new_card.sent",
    "event.stored_card.fetched": "event.stored_card.sent",
    "event.payment_intent.fetched": "event.payment_intent.sent",
    "reconcile.looked_up": "reconcile.look.sent",
}

Hook = Callable[[Failpoint], None]

_hook: Hook | None = None


def reach(point: Failpoint) -> None:
    """Reach a failpoint. Does nothing unless a test or a drill has armed this process."""
    if _hook is not None:
        _hook(point)


def reach_edge(step: str | None, edge: str) -> None:
    """Reach the failpoint `<step>.<edge>`, where one piece of code serves several steps; without a step, none."""
    if _hook is not None and step is not None:
        _hook(Failpoint(f"{step}.{edge}"))


class Crashed(BaseException):  # a crash isn't an error, and nothing may catch it as one
    """A crash in a test, instead of SIGKILL. `except Exception` doesn't catch it; transactions roll back."""


@dataclass(frozen=True)
class CrashPlan:
    """When a real process kills itself: at the `arrival`th arrival at one of `points`, or at each by chance."""

    points: frozenset[Failpoint]
    arrival: int = 1
    probability: float | None = None

    def __str__(self) -> str:
        where = "every point" if len(self.points) == len(Failpoint) else ", ".join(sorted(self.points))
        when = f"arrival {self.arrival}" if self.probability is None else f"probability {self.probability:g}"
        return f"{where}, {when}"


def read_plan(crash_at: str | None, probability: float | None) -> CrashPlan | None:
    """Read `DUECOURSE_CRASH_AT` (`charge.claimed`, `charge.claimed:3`, several with commas) and the probability.

    The number is the arrival, counted over all named points. A probability alone applies to every point, together
    with names to each arrival at those. None if neither is given; ValueError if a name or number is invalid.
    """
    if not crash_at:
        return CrashPlan(frozenset(Failpoint), probability=probability) if probability else None
    names, _, number = crash_at.partition(":")
    try:
        points = frozenset(Failpoint(name.strip()) for name in names.split(","))
    except ValueError as error:
        raise ValueError(f"{error}; there are: {', '.join(Failpoint)}") from None
    if number and not (number.isdecimal() and int(number) > 0):
        raise ValueError(f"{number!r} is not the number of an arrival: charge.claimed:3 is the third")
    return CrashPlan(points, int(number or 1), probability or None)


def arm(plan: CrashPlan | None) -> None:
    """Arm this process until it ends; nothing happens without a plan."""
    global _hook
    if plan is None:
        return
    log.critical(
        "failpoints.armed",
        at=str(plan),
        consequence="this process will kill itself with SIGKILL",
        what_to_do="unset DUECOURSE_CRASH_AT and DUECOURSE_CRASH_PROBABILITY unless this is a drill",
    )
    _hook = _Killer(plan)


@contextmanager
def armed(hook: Hook) -> Iterator[None]:
    """Call `hook` at each arrival, in every thread, within this context. For tests."""
    global _hook
    before, _hook = _hook, hook
    try:
        yield
    finally:
        _hook = before


@dataclass
class Crash:
    """A crash that a test ordered: whether it happened, the arrivals, and those after the crash.

    After SIGKILL no code runs: an arrival after the crash and before `bury` is recorded in `after_death` and
    raises again.
    """

    point: Failpoint
    arrival: int = 1
    arrivals: Counter[Failpoint] = field(default_factory=Counter)
    happened: bool = False
    after_death: list[str] = field(default_factory=list)
    _died_in: int | None = None

    def __call__(self, point: Failpoint) -> None:
        if self.is_dead:
            self.after_death.append(point)
            raise Crashed(f"{point}, after {self.point}")
        self.arrivals[point] += 1
        if point is self.point and self.arrivals[point] == self.arrival:
            self.happened = True
            self._died_in = threading.get_ident()
            raise Crashed(point)

    @property
    def is_dead(self) -> bool:
        """Whether the calling thread is the one that crashed."""
        return self._died_in == threading.get_ident()

    def bury(self) -> None:
        """A new process has taken over: arrivals count again."""
        self._died_in = None


@contextmanager
def crashing_at(point: Failpoint, arrival: int = 1) -> Iterator[Crash]:
    """Raise Crashed at the `arrival`th arrival at `point`. For tests."""
    crash = Crash(point, arrival)
    with armed(crash):
        yield crash


class _Killer:
    """Counts a real process's arrivals and kills it."""

    def __init__(self, plan: CrashPlan) -> None:
        self._plan = plan
        self._arrivals = 0
        self._turn = threading.Lock()

    def __call__(self, point: Failpoint) -> None:
        if point not in self._plan.points:
            return
        with self._turn:
            self._arrivals += 1
            if self._is_time():
                os.write(2, f"failpoint {point}: process {os.getpid()} kills itself\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    def _is_time(self) -> bool:
        if self._plan.probability is None:
            return self._arrivals == self._plan.arrival
        return random.random() < self._plan.probability  # noqa: S311  # not for security
