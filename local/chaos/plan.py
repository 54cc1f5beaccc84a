"""The plan of a chaos run: pure data from the seed. The same seed and number of faults make the same plan."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

from local.chaos.kinds import ARMED, BY_NAME, KINDS, Group, Kind

#: Every kind shall hit at least so often, if there are faults enough for that.
AT_LEAST = 20
#: The last days of October: the first step of every plan is the start of a month.
FIRST_DAY = date(2026, 11, 1)
#: Faults a second: as many as leave most charges room to succeed. Of the machine's time, not of the virtual.
FAULTS_PER_S = 7.0
#: How long a virtual day lasts, in seconds: at a month's start all charges of the month are made.
MONTH_START_S, DAY_AFTER_S, DAY_S = 7.0, 3.0, 1.2
#: Below this a run would end before a card has declined twice.
FEWEST_STEPS = 5
#: Longer than these the client doesn't wait (ms): see IMPATIENT in company.py.
DELAYS_MS = (2_600.0, 4_000.0, 9_000.0, 15_000.0)
LIST_LAGS_MS = (2_000.0, 10_000.0)
WEBHOOK_DELAYS_MS = (500.0, 3_000.0, 8_000.0)
#: A rule hits a request that it fits with this probability, so that not only the first of a burst are hit; in a
#: small run there are few requests, and it hits sooner.
PROBABILITIES, PROBABILITIES_OF_FEW = (0.1, 0.2, 0.4), (0.4, 0.7, 1.0)
FEW_ACCOUNTS = 80
#: Processes and servers are struck in storms, some seconds of so many: in one everything is down half of the time,
#: and what is always down does no work that could go wrong.
STORM_S, STORM_EVERY_S = 9.0, 24.0
_STORMY = frozenset({Group.PROCESS, Group.VALKEY, Group.POSTGRES})
#: Outages of the processor come in this first share of the time: each one after another doubles a payment's pause,
#: and with the last ones at the very end a run would mostly wait.
OUTAGES_END = 0.85


@dataclass(frozen=True, slots=True)
class Step:
    """A move of the business clock: a day, or a jump over several. It lasts `seconds` of the machine's time."""

    number: int
    to: date
    days: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: at which step, after which share of its time, on whom. Parameters are by kind."""

    sequence: int
    step: int
    share: float
    kind: str
    target: str
    parameters: tuple[tuple[str, Any], ...] = ()

    def get(self, name: str) -> Any:
        """A parameter by its name; KeyError if the kind has none such."""
        return dict(self.parameters)[name]


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do, decided before it begins."""

    seed: int
    accounts: int
    steps: tuple[Step, ...]
    faults: tuple[Planned, ...]

    @property
    def counts(self) -> Counter[str]:
        """How many of each kind."""
        return Counter(fault.kind for fault in self.faults)

    @property
    def seconds(self) -> float:
        """How long the fire lasts if nothing takes longer."""
        return sum(step.seconds for step in self.steps)

    @property
    def digest(self) -> str:
        """The plan's fingerprint: equal plans have equal ones."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The whole plan as what JSON can hold."""
        return {
            "seed": self.seed,
            "accounts": self.accounts,
            "steps": [{**asdict(step), "to": step.to.isoformat()} for step in self.steps],
            "faults": [{**asdict(fault), "parameters": dict(fault.parameters)} for fault in self.faults],
        }


def make_plan(faults: int, seed: int) -> Plan:
    """Plan `faults` faults. Each kind gets an equal share up to AT_LEAST; the rest is drawn by weight."""
    dice = random.Random(seed)  # noqa: S311  # a plan's dice
    kinds = _allot(faults, dice)
    dice.shuffle(kinds)
    steps = _steps(faults / FAULTS_PER_S, kinds.count("clock_jump"), dice)
    accounts = max(40, min(400, faults * 3 // 20))
    jumps = iter([step for step in steps if step.days > 1])
    early, stormy = _early(steps), _stormy(steps)
    placed = []
    for kind in kinds:
        if kind == "clock_jump":
            step, share = next(jumps), 0.0
        else:
            group = BY_NAME[kind].group
            fitting = stormy if group in _STORMY else early if group is Group.REQUEST else steps
            step, share = dice.choices(fitting, [step.seconds for step in fitting])[0], dice.random()
        placed.append((step.number, round(share, 3), kind))
    placed.sort()
    planned = [
        one_fault(sequence, step, share, BY_NAME[kind], accounts, dice)
        for sequence, (step, share, kind) in enumerate(placed, 1)
    ]
    return Plan(seed, accounts, tuple(steps), tuple(planned))


def plan_again(plan: Plan, short: Iterable[tuple[str, int]], round_number: int) -> list[Planned]:
    """Plan what hit too rarely once more: `short` says how many of which kind. Deterministic, too."""
    dice = random.Random(f"{plan.seed} {round_number}")  # noqa: S311
    wanted = [kind for kind, count in sorted(short) for _ in range(count)]
    step = plan.steps[-1].number + round_number
    first = len(plan.faults) + 1
    return [
        one_fault(first + index, step, round(dice.random(), 3), BY_NAME[kind], plan.accounts, dice)
        for index, kind in enumerate(wanted)
    ]


def one_fault(sequence: int, step: int, share: float, kind: Kind, accounts: int, dice: random.Random) -> Planned:
    """Choose whom a fault strikes, and how."""
    parameters = _parameters(kind, accounts, dice)
    return Planned(sequence, step, share, kind.name, dice.choice(kind.targets), tuple(sorted(parameters.items())))


def _allot(faults: int, dice: random.Random) -> list[str]:
    each = min(AT_LEAST, faults // len(KINDS))
    kinds = [kind.name for kind in KINDS for _ in range(each)]
    kinds += dice.choices(
        [kind.name for kind in KINDS], [kind.weight for kind in KINDS], k=max(0, faults - len(kinds))
    )
    return kinds


def _steps(seconds: float, jumps: int, dice: random.Random) -> list[Step]:
    """Days until the seconds are full, with the jumps scattered among them; at least FEWEST_STEPS."""
    steps: list[Step] = []
    day, spent = FIRST_DAY, 0.0
    average = DAY_S + (MONTH_START_S + DAY_AFTER_S - 2 * DAY_S) / 30
    expected = max(FEWEST_STEPS, round(seconds / average), jumps + 1)
    jumping = set(dice.sample(range(1, expected), jumps))
    while len(steps) < expected or spent < seconds:
        days = dice.randint(2, 5) if len(steps) in jumping else 1
        before = day if steps else FIRST_DAY - timedelta(days=1)
        day = before + timedelta(days=days)
        if before.month != day.month:
            lasts = MONTH_START_S
        elif before.day == 1:
            lasts = DAY_AFTER_S
        else:
            lasts = DAY_S
        steps.append(Step(len(steps) + 1, day, days, lasts))
        spent += lasts
    return steps


def _early(steps: list[Step]) -> list[Step]:
    """The steps before the outages end."""
    left = OUTAGES_END * sum(step.seconds for step in steps)
    early: list[Step] = []
    for step in steps:
        left -= step.seconds
        if left >= 0 or not early:
            early.append(step)
    return early


def _stormy(steps: list[Step]) -> list[Step]:
    """The steps that begin in a storm; the first one does."""
    found: list[Step] = []
    begins = 0.0
    for step in steps:
        if begins % STORM_EVERY_S < STORM_S:
            found.append(step)
        begins += step.seconds
    return found


def _parameters(kind: Kind, accounts: int, dice: random.Random) -> dict[str, Any]:
    if kind.name in ARMED:
        probabilities = PROBABILITIES if accounts > FEW_ACCOUNTS else PROBABILITIES_OF_FEW
        return {"probability": dice.choice(probabilities), "seed": dice.randrange(1 << 30), **_delay(kind, dice)}
    match kind.name:
        case "rate_limit":
            return {"per_second": float(dice.randint(2, 10)), "seconds": round(dice.uniform(1, 3), 2)}
        case "sigterm_twice":
            return {"seconds": round(dice.uniform(0.05, 0.9), 2)}  # between the two
        case "freeze_worker":
            return {"seconds": round(dice.uniform(7.5, 9), 2)}
        case "valkey_paused" | "valkey_full":
            return {"seconds": round(dice.uniform(1, 5), 2)}
        case "row_locked":
            return {"seconds": round(dice.uniform(12, 24), 2)}
        case "disk_full":
            return {"seconds": round(dice.uniform(0.5, 2), 2)}
        case "card_registered" | "operator_charge" | "operator_look_up" | "dashboard_cancel":
            return {"person": dice.randrange(accounts), "pays": dice.random() < 0.85}
    return {}


def _delay(kind: Kind, dice: random.Random) -> dict[str, Any]:
    match kind.name:
        case "slow" | "slow_before":
            return {"delay_ms": dice.choice(DELAYS_MS)}
        case "list_lagging":
            return {"delay_ms": dice.choice(LIST_LAGS_MS)}
        case "webhook_delayed":
            return {"delay_ms": dice.choice(WEBHOOK_DELAYS_MS)}
        case "rate_limited" | "lock_timeout":
            return {"should_retry": dice.choice((True, False, None))}
    return {}
