"""Executes a plan step by step in virtual time, and injects each fault at its moment."""

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day

from local.chaos import messages, processes, servers, users
from local.chaos.catalogue import ARMED
from local.chaos.context import EXPECTED_ERRORS, RETRY_AFTER_S, TRY_FOR_S, ChaosContext, Injectors
from local.chaos.plan import AT_LEAST, MONTH_START_S, Plan, Planned, Step, plan_again
from shared.clock import machine_now
from shared.scheduling.pending_work import pending_work
from shared.scheduling.virtual_clock import ClockError, next_stop, set_clock

INJECTORS: Injectors = {**processes.INJECTORS, **servers.INJECTORS, **messages.INJECTORS, **users.INJECTORS}

MIDDAY = time_of_day(12, 0, tzinfo=UTC)
LOOP_S = 0.1
#: Lasting faults (mostly locks) overlap; more threads would exceed the plan's density of faults.
THREADS = 24
#: A month's start lasts until this share of the accounts was charged, however slow the machine is, but at most
#: LONGEST_MONTH_START times its planned seconds.
CHARGED_SHARE, LONGEST_MONTH_START = 0.4, 6.0
#: A day ends when its time is over, whatever is still pending, but the clock must be moved within this time.
CLOCK_WITHIN_S = 90.0
#: Extra rounds of days, in which kinds that hit too rarely are injected again; each advances to new due payments.
ROUNDS = 24
ROUND_S = 5.0
DAYS_OF_ROUND = 4
#: Range of the lists of charges, in business time.
LISTED = timedelta(days=4)


class ChaosError(Exception):
    """The run can't continue; the message says why."""


class Executor:
    """Executes a plan. `on_step` is called with each step and its number of faults when it starts."""

    def __init__(self, context: ChaosContext, plan: Plan, on_step: Callable[[Step, int], None]) -> None:
        self._context = context
        self._plan = plan
        self._on_step = on_step
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="chaos-fault")
        self._futures: list[Future[None]] = []
        self._listing: Future[None] | None = None
        self._receipts_count = 0

    def run_plan(self) -> None:
        """Execute all steps. Raises ChaosError if the clock can't be moved."""
        for step in self._plan.steps:
            self._run_step(step, [fault for fault in self._plan.faults if fault.step == step.number])

    def rerun_missing(self) -> dict[str, int]:
        """Inject again, in rounds, the kinds that hit too rarely; return how many hits each kind still lacks."""
        day = self._plan.steps[-1].to
        for number in range(1, ROUNDS + 1):
            self._wait_for_injections(TRY_FOR_S if number == 1 else ROUND_S)
            short = self.short()
            if not short:
                return {}
            outstanding = self._context.fault_queue.outstanding()
            wanted = [
                (kind, count - outstanding[kind]) for kind, count in short.items() if count > outstanding[kind]
            ]
            before, day = day, day + timedelta(days=DAYS_OF_ROUND)
            lasts = MONTH_START_S if before.month != day.month else ROUND_S
            step = Step(self._plan.steps[-1].number + number, day, DAYS_OF_ROUND, lasts)
            self._run_step(step, plan_again(self._plan, wanted, number))
        self._wait_for_injections(TRY_FOR_S)
        return self.short()

    def short(self) -> dict[str, int]:
        """Return how many hits each kind lacks to AT_LEAST, or to its planned number if that is less."""
        hits, planned = self._context.counts(), self._plan.counts
        found = {kind: min(AT_LEAST, count) - hits[kind] for kind, count in planned.items()}
        return {kind: missing for kind, missing in found.items() if missing > 0}

    def finish(self) -> None:
        """Inject no more, and wait for the end of every lasting fault."""
        self._context.draining.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._raise_defects()

    def abort(self) -> None:
        """Inject no more and don't wait; lasting faults end by themselves within moments."""
        self._context.draining.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run_step(self, step: Step, faults: Sequence[Planned]) -> None:
        self._on_step(step, len(faults))
        started = time.monotonic()
        self._context.fault_queue.add(fault for fault in faults if fault.kind in ARMED)
        upcoming = sorted((f for f in faults if f.kind in INJECTORS), key=lambda fault: fault.share, reverse=True)
        jumps = [fault for fault in faults if fault.kind == "clock_jump"]
        target = datetime.combine(step.to, MIDDAY)
        stop_s = step.seconds / 4  # 09:00 in two zones, midday, and some more at a month's start
        moved_at, is_at_target, elapsed = -stop_s, False, 0.0
        charged = self._charged_enough(step)
        while upcoming or not is_at_target or elapsed < step.seconds or not charged(elapsed):
            elapsed = time.monotonic() - started
            while upcoming and upcoming[-1].share * step.seconds <= elapsed:
                self._futures.append(self._pool.submit(self._inject, upcoming.pop()))
            try:
                is_late = elapsed >= 0.8 * step.seconds
                if not is_at_target and (is_late or elapsed - moved_at >= stop_s or self._has_no_pending_work()):
                    is_at_target = self._move(target, straight=bool(jumps) or is_late)
                    moved_at = elapsed
            except EXPECTED_ERRORS:
                if elapsed > CLOCK_WITHIN_S:
                    raise ChaosError(
                        f"the clock couldn't be moved to {target} within {CLOCK_WITHIN_S:g} s"
                    ) from None
            self._context.wait(LOOP_S)
        for jump in jumps:
            self._context.record_hit(jump.kind)
        self._list_charges()
        self._raise_defects()

    def _move(self, target: datetime, *, straight: bool) -> bool:
        """Move the clock to the next stop, or straight to the target; return whether it is there."""
        company = self._context.company
        now = self._context.now()
        if now >= target:
            return True
        with company.connect() as connection:
            stop = target if straight else next_stop(connection, company.stack.policy, now, target)
        try:
            with company.engine.begin() as connection:
                set_clock(connection, stop, company.stack.policy)
        except ClockError:
            return False
        return stop == target

    def _charged_enough(self, step: Step) -> Callable[[float], bool]:
        """Return a check whether, after the given seconds of the step, enough of a month's charges succeeded."""
        if step.seconds < MONTH_START_S:
            return lambda _elapsed: True
        before = self._receipts()
        wanted = CHARGED_SHARE * self._plan.accounts

        def charged(elapsed: float) -> bool:
            return elapsed > LONGEST_MONTH_START * step.seconds or self._receipts() - before >= wanted

        return charged

    def _receipts(self) -> int:
        """Count the receipts; while PostgreSQL is down, return the last count."""
        with contextlib.suppress(*EXPECTED_ERRORS):
            self._receipts_count = self._context.company.scalar("SELECT count(*) FROM receipts")
        return self._receipts_count

    def _has_no_pending_work(self) -> bool:
        company = self._context.company
        with company.connect() as connection:
            return not pending_work(connection, company.stack.policy, self._context.now(), machine_now())

    def _inject(self, fault: Planned) -> None:
        """Try until it has its effect or TRY_FOR_S is over; its kind is then injected again in a later round."""
        deadline = time.monotonic() + TRY_FOR_S
        while not self._context.draining.is_set():
            before = len(self._context.hits)
            try:
                INJECTORS[fault.kind](self._context, fault)
            except EXPECTED_ERRORS:
                if any(hit.kind == fault.kind for hit in self._context.hits[before:]):
                    return  # it had its effect, which also broke its own connection
                if time.monotonic() > deadline:
                    return
                self._context.wait(RETRY_AFTER_S)
            else:
                return

    def _list_charges(self) -> None:
        """List the charges of the last days, so that list requests meet faults too."""
        if self._listing is None or self._listing.done():
            self._listing = self._pool.submit(self._list)
            self._futures.append(self._listing)

    def _list(self) -> None:
        try:
            now = self._context.now()
            for gateway in self._context.company.runtime.gateways.values():
                for _ in gateway.list_charges(now - LISTED, now + LISTED):
                    if self._context.draining.is_set():
                        return
        except EXPECTED_ERRORS:
            return

    def _wait_for_injections(self, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and any(not future.done() for future in self._futures):
            time.sleep(LOOP_S)
        self._raise_defects()

    def _raise_defects(self) -> None:
        """Raise the unexpected error of an injection: a defect of chaos itself."""
        done = [future for future in self._futures if future.done()]
        self._futures = [future for future in self._futures if not future.done()]
        for future in done:
            if not future.cancelled() and (error := future.exception()) is not None:
                raise error
