"""The fire: walks through the plan, step by step of virtual time, and strikes when a fault's moment comes."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day

from local.chaos import messages, people, processes, servers
from local.chaos.context import AGAIN_AFTER_S, PATIENCE_S, TROUBLES, ChaosContext, Strikes
from local.chaos.kinds import ARMED
from local.chaos.plan import AT_LEAST, MONTH_START_S, Plan, Planned, Step, plan_again
from shared.clock import machine_now
from shared.scheduling.pending_work import pending_work
from shared.scheduling.virtual_clock import ClockError, next_stop, set_clock

STRIKES: Strikes = {**processes.STRIKES, **servers.STRIKES, **messages.STRIKES, **people.STRIKES}

MIDDAY = time_of_day(12, 0, tzinfo=UTC)
TURN_S = 0.1
#: Faults that last (locks above all) overlap; more than these at once would be none of the plan's density.
HANDS = 24
#: A month's start lasts until this share of the accounts was charged, however slow the machine is and whatever was
#: killed; but not longer than so many times its time.
CHARGED_SHARE, LONGEST_MONTH_START = 0.4, 6.0
#: A day ends when its time is over, whatever is still pending; but the clock must have been moved.
CLOCK_WITHIN_S = 90.0
#: Rounds of days in which what hit too rarely is fired again; each moves on to where something is due.
ROUNDS = 24
ROUND_S = 5.0
DAYS_OF_ROUND = 4
#: What an accountant lists, in business time.
LISTED = timedelta(days=4)


class ChaosError(Exception):
    """The run can't go on; the message says why."""


class Fire:
    """Burns a plan. `on_step` is told the step that begins."""

    def __init__(self, scene: ChaosContext, plan: Plan, on_step: Callable[[Step, int], None]) -> None:
        self._scene = scene
        self._plan = plan
        self._on_step = on_step
        self._hands = ThreadPoolExecutor(HANDS, thread_name_prefix="chaos-hand")
        self._struck: list[Future[None]] = []
        self._listing: Future[None] | None = None
        self._missed: Counter[str] = Counter()
        self._missed_lock = threading.Lock()
        self._booked = 0

    @property
    def missed(self) -> Counter[str]:
        """Faults that could not strike within their patience, by kind."""
        return Counter(self._missed)

    def burn(self) -> None:
        """Walk through the whole plan. Raises ChaosError if the clock can't be moved."""
        for step in self._plan.steps:
            self._burn(step, [fault for fault in self._plan.faults if fault.step == step.number])

    def burn_again(self) -> dict[str, int]:
        """Fire again whatever hit too rarely, in rounds; return by how much each kind is still short."""
        day = self._plan.steps[-1].to
        for number in range(1, ROUNDS + 1):
            self._wait_for_hands(PATIENCE_S if number == 1 else ROUND_S)
            short = self.short()
            if not short:
                return {}
            outstanding = self._scene.armoury.outstanding()
            wanted = [
                (kind, count - outstanding[kind]) for kind, count in short.items() if count > outstanding[kind]
            ]
            before, day = day, day + timedelta(days=DAYS_OF_ROUND)
            lasts = MONTH_START_S if before.month != day.month else ROUND_S
            step = Step(self._plan.steps[-1].number + number, day, DAYS_OF_ROUND, lasts)
            self._burn(step, plan_again(self._plan, wanted, number))
        self._wait_for_hands(PATIENCE_S)
        return self.short()

    def short(self) -> dict[str, int]:
        """By how much each kind missed its twenty, or as many as were planned if those are fewer."""
        hits, planned = self._scene.counts(), self._plan.counts
        found = {kind: min(AT_LEAST, count) - hits[kind] for kind, count in planned.items()}
        return {kind: missing for kind, missing in found.items() if missing > 0}

    def let_go(self) -> None:
        """End every fault that lasts, and strike no more."""
        self._scene.letting_go.set()
        self._hands.shutdown(wait=True, cancel_futures=True)
        self._tell_defects()

    def stop_at_once(self) -> None:
        """Strike no more; what lasts ends by itself within moments."""
        self._scene.letting_go.set()
        self._hands.shutdown(wait=False, cancel_futures=True)

    def _burn(self, step: Step, faults: Sequence[Planned]) -> None:
        self._on_step(step, len(faults))
        began = time.monotonic()
        self._scene.armoury.add(fault for fault in faults if fault.kind in ARMED)
        coming = sorted((f for f in faults if f.kind in STRIKES), key=lambda fault: fault.share, reverse=True)
        jumps = [fault for fault in faults if fault.kind == "clock_jump"]
        target = datetime.combine(step.to, MIDDAY)
        stop_s = step.seconds / 4  # 09:00 in two zones, midday, and some more at a month's start
        moved_at, is_there, elapsed = -stop_s, False, 0.0
        charged = self._charged_enough(step)
        while coming or not is_there or elapsed < step.seconds or not charged(elapsed):
            elapsed = time.monotonic() - began
            while coming and coming[-1].share * step.seconds <= elapsed:
                self._struck.append(self._hands.submit(self._strike, coming.pop()))
            try:
                is_late = elapsed >= 0.8 * step.seconds
                if not is_there and (is_late or elapsed - moved_at >= stop_s or self._is_quiet()):
                    is_there = self._move(target, straight=bool(jumps) or is_late)
                    moved_at = elapsed
            except TROUBLES:
                if elapsed > CLOCK_WITHIN_S:
                    raise ChaosError(
                        f"the clock couldn't be moved to {target} within {CLOCK_WITHIN_S:g} s"
                    ) from None
            self._scene.last(TURN_S)
        for jump in jumps:
            self._scene.landed(jump.kind)
        self._list_charges()
        self._tell_defects()

    def _move(self, target: datetime, *, straight: bool) -> bool:
        """Move the clock to where something is due, or straight to the end; True once it is there."""
        company = self._scene.company
        now = self._scene.now()
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
        """Say, after some seconds of a step, whether enough of a month's charges have come through the fire."""
        if step.seconds < MONTH_START_S:
            return lambda _elapsed: True
        before = self._receipts()
        wanted = CHARGED_SHARE * self._plan.accounts

        def charged(elapsed: float) -> bool:
            return elapsed > LONGEST_MONTH_START * step.seconds or self._receipts() - before >= wanted

        return charged

    def _receipts(self) -> int:
        """How many charges are booked; the last that was seen while PostgreSQL is away."""
        with contextlib.suppress(*TROUBLES):
            self._booked = self._scene.company.scalar("SELECT count(*) FROM receipts")
        return self._booked

    def _is_quiet(self) -> bool:
        company = self._scene.company
        with company.connect() as connection:
            return not pending_work(connection, company.stack.policy, self._scene.now(), machine_now())

    def _strike(self, fault: Planned) -> None:
        """Try until it lands or its patience is over; it is planned again if its kind is short in the end."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._scene.letting_go.is_set():
            before = len(self._scene.hits)
            try:
                STRIKES[fault.kind](self._scene, fault)
            except TROUBLES:
                if any(hit.kind == fault.kind for hit in self._scene.hits[before:]):
                    return  # it landed, and took its own hand with it
                if time.monotonic() > deadline:
                    with self._missed_lock:
                        self._missed[fault.kind] += 1
                    return
                self._scene.last(AGAIN_AFTER_S)
            else:
                return

    def _list_charges(self) -> None:
        """An accountant lists the charges of the last days, so that lists meet faults too."""
        if self._listing is None or self._listing.done():
            self._listing = self._hands.submit(self._list)
            self._struck.append(self._listing)

    def _list(self) -> None:
        try:
            now = self._scene.now()
            for gateway in self._scene.company.runtime.gateways.values():
                for _ in gateway.list_charges(now - LISTED, now + LISTED):
                    if self._scene.letting_go.is_set():
                        return
        except TROUBLES:
            return

    def _wait_for_hands(self, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and any(not future.done() for future in self._struck):
            time.sleep(TURN_S)
        self._tell_defects()

    def _tell_defects(self) -> None:
        """Raise what a hand died of: only a defect of chaos itself gets here."""
        done = [future for future in self._struck if future.done()]
        self._struck = [future for future in self._struck if not future.done()]
        for future in done:
            if not future.cancelled() and (error := future.exception()) is not None:
                raise error
