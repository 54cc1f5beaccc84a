"""The plan of a chaos run: pure data. The same seed and number of faults make the same plan."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

from local.chaos.catalogue import BY_NAME, KINDS, Group, Kind

#: Every kind hits at least this often, if there are enough faults.
AT_LEAST = 20
#: The first step of every plan is the start of a month, in which October's fees are billed.
FIRST_DAY = date(2026, 11, 1)
#: Faults per second of machine time: few enough that most charges can succeed.
FAULTS_PER_S = 7.0
#: Length of a virtual day in seconds; at a month's start all charges of the month are made.
MONTH_START_S, DAY_AFTER_S, DAY_S = 7.0, 3.0, 1.2
#: With fewer, a run would end before a card has declined twice.
FEWEST_STEPS = 5
#: A rule hits a matching request with this probability, so that it doesn't only hit the first of a burst; in a
#: small run there are few requests, so the probability is higher.
PROBABILITIES, PROBABILITIES_OF_FEW = (0.1, 0.2, 0.4), (0.4, 0.7, 1.0)
FEW_ACCOUNTS = 80
#: Faults of processes and servers come in storms of STORM_S seconds, one every STORM_EVERY_S: during a storm
#: everything is down half of the time, and a system that is always down does no work that could go wrong.
STORM_S, STORM_EVERY_S = 9.0, 24.0
_STORMY = frozenset({Group.PROCESS, Group.VALKEY, Group.POSTGRES})
#: Request faults come in this first share of the time: consecutive ones double a payment's backoff, and with faults
#: at the very end a run would mostly wait.
OUTAGES_END = 0.85


@dataclass(frozen=True, slots=True)
class Step:
    """One move of the business clock, by a day or several. It lasts `seconds` of machine time."""

    number: int
    to: date
    days: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: its step, the share of the step's time after which it is injected, its target and parameters."""

    sequence: int
    step: int
    share: float
    kind: str
    target: str
    parameters: tuple[tuple[str, Any], ...] = ()

    def get(self, name: str) -> Any:
        """Return a parameter. Raises KeyError if the kind doesn't have it."""
        return dict(self.parameters)[name]


@dataclass(frozen=True)
class Plan:
    """All steps and faults of a run, decided before it starts."""

    seed: int
    accounts: int
    steps: tuple[Step, ...]
    faults: tuple[Planned, ...]

    @property
    def counts(self) -> Counter[str]:
        """Number of faults by kind."""
        return Counter(fault.kind for fault in self.faults)

    @property
    def seconds(self) -> float:
        """Planned length of the fault phase."""
        return sum(step.seconds for step in self.steps)

    @property
    def digest(self) -> str:
        """The plan's fingerprint: equal for equal plans."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
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
    """Plan more faults of the kinds in `short` (kind, count), which hit too rarely. Deterministic, too."""
    dice = random.Random(f"{plan.seed} {round_number}")  # noqa: S311
    wanted = [kind for kind, count in sorted(short) for _ in range(count)]
    step = plan.steps[-1].number + round_number
    first = len(plan.faults) + 1
    return [
        one_fault(first + index, step, round(dice.random(), 3), BY_NAME[kind], plan.accounts, dice)
        for index, kind in enumerate(wanted)
    ]


def one_fault(sequence: int, step: int, share: float, kind: Kind, accounts: int, dice: random.Random) -> Planned:
    """Draw a fault's target and parameters."""
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
    """Return days that fill the seconds, with the jumps scattered among them; at least FEWEST_STEPS."""
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
    """Return the steps in the first OUTAGES_END of the time."""
    left = OUTAGES_END * sum(step.seconds for step in steps)
    early: list[Step] = []
    for step in steps:
        left -= step.seconds
        if left >= 0 or not early:
            early.append(step)
    return early


def _stormy(steps: list[Step]) -> list[Step]:
    """Return the steps that begin in a storm; the first one does."""
    found: list[Step] = []
    begins = 0.0
    for step in steps:
        if begins % STORM_EVERY_S < STORM_S:
            found.append(step)
        begins += step.seconds
    return found


def _parameters(kind: Kind, accounts: int, dice: random.Random) -> dict[str, Any]:
    drawn: dict[str, Any] = {}
    if kind.is_armed:
        probabilities = PROBABILITIES if accounts > FEW_ACCOUNTS else PROBABILITIES_OF_FEW
        drawn = {"probability": dice.choice(probabilities), "seed": dice.randrange(1 << 30)}
    for name, draw in kind.parameters:
        drawn[name] = draw(dice, accounts)
    return drawn
