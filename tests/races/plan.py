"""The rounds of a race, generated from a seed: the same seed, the same rounds."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations_with_replacement, cycle, islice

from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays, Pays, Story


class Role(StrEnum):
    """Who comes to the payment at that instant."""

    CHARGE = "a message rings for it"
    DAILY_RETRY = "the daily run"
    ACTIVATE = "the customer clicks Activate"
    OPERATOR = "an operator asks for it"
    REGISTER = "the customer has registered a new card"
    WEBHOOK = "Stripe tells of its PaymentIntent"
    SETTLEMENT = "settlement looks its open attempt up"
    LATE_WORKER = "a worker that stood still goes on after its lease"


class Situation(StrEnum):
    """How the payment stands when they come."""

    NEW = "due, never charged"
    DECLINED = "declined once; the card will pay"
    KEEPS_DECLINING = "declined; the card won't pay"
    EXPIRED = "waits for a new card"
    LOST_SUCCESS = "charged; the answer was lost and the lease is over"
    LOST_DECLINE = "declined; the answer was lost and the lease is over"
    LOST_BEFORE_CONFIRM = "its worker was lost between create and confirm"
    LOST_BEFORE_CREATE = "its worker was lost before the create"
    CANCELED_UNSEEN = "declined; Stripe has canceled the PaymentIntent and nobody knows"


#: The story of the card that each begins with.
STORIES: dict[Situation, Story] = {
    Situation.NEW: Pays(),
    Situation.DECLINED: DeclinesThenPays(times=1, decline_code="insufficient_funds"),
    Situation.KEEPS_DECLINING: AlwaysDeclines(decline_code="insufficient_funds"),
    Situation.EXPIRED: AlwaysDeclines(decline_code="expired_card"),
    Situation.LOST_SUCCESS: Pays(),
    Situation.LOST_DECLINE: DeclinesThenPays(times=1, decline_code="insufficient_funds"),
    Situation.LOST_BEFORE_CONFIRM: Pays(),
    Situation.LOST_BEFORE_CREATE: Pays(),
    Situation.CANCELED_UNSEEN: DeclinesThenPays(times=1, decline_code="insufficient_funds"),
}
#: An attempt is open whose worker is gone.
LOST = frozenset(
    {
        Situation.LOST_SUCCESS,
        Situation.LOST_DECLINE,
        Situation.LOST_BEFORE_CONFIRM,
        Situation.LOST_BEFORE_CREATE,
    }
)
#: Who may come to any payment at all.
COMERS = tuple(role for role in Role if role is not Role.LATE_WORKER)
PAIRS = tuple(combinations_with_replacement(COMERS, 2))


@dataclass(frozen=True)
class Round:
    """One payment, and what each process does about it (None: nothing), so many seconds after the start."""

    number: int
    situation: Situation
    roles: tuple[Role | None, ...]
    delays_s: tuple[float, ...]
    preparer: int  # the process that brings the payment into its situation; the late worker's, if there is one

    @property
    def has_new_card(self) -> bool:
        return Role.REGISTER in self.roles

    @property
    def must_be_paid(self) -> bool:
        """Whether a card pays in the end; if not, no money may ever be taken."""
        return self.has_new_card or self.situation not in (Situation.KEEPS_DECLINING, Situation.EXPIRED)


def plan_rounds(seed: int, count: int, processes: int) -> list[Round]:
    """Every other round races a pair of roles, half of the processes each; the others race all that there are."""
    chance = random.Random(seed)
    pairs, situations = _shuffled_for_ever(PAIRS, chance), _shuffled_for_ever(tuple(Situation), chance)
    return [
        _round(number, next(situations), next(pairs) if number % 2 else COMERS, chance, processes)
        for number in range(count)
    ]


def plan_late_rounds(seed: int, count: int, processes: int) -> list[Round]:
    """A worker stood still beyond its lease, and goes on while settlement and all others are at its payment."""
    chance = random.Random(seed)
    situations = _shuffled_for_ever(sorted(LOST), chance)
    return [
        _round(number, next(situations), COMERS, chance, processes, has_late_worker=True) for number in range(count)
    ]


def _round(
    number: int,
    situation: Situation,
    comers: Sequence[Role],
    chance: random.Random,
    processes: int,
    *,
    has_late_worker: bool = False,
) -> Round:
    roles: list[Role | None] = list(islice(cycle(chance.sample(comers, len(comers))), processes))
    if len(comers) == 2:
        chance.shuffle(roles)
        if chance.random() < 0.5:
            roles[-2:] = [None, None]  # fewer at once meet more closely
    delays = [chance.choice((0.0, chance.uniform(0, 0.002), chance.uniform(0, 0.012))) for _ in roles]
    preparer = chance.randrange(processes)
    if has_late_worker:
        roles[preparer], roles[preparer - 1] = Role.LATE_WORKER, Role.SETTLEMENT
    return Round(number, situation, tuple(roles), tuple(delays), preparer)


def _shuffled_for_ever(values: Sequence, chance: random.Random):
    """All of them before any comes again, in another order each time."""
    while True:
        yield from chance.sample(values, len(values))
