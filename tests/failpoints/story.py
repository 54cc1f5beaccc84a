"""A story, how it runs with one crash in it, and what must hold at its end.

A story goes over every step that the failpoints of its families name: tests/failpoints/stories.py has them.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Engine, text

from shared.failpoints import Crash, Failpoint, armed
from simulator.client import RegisteredCard
from simulator.issuer.stories import Story as CardStory
from tests.diaries.conftest import assert_verify_is_clean
from tests.failpoints.company import Company, living_company
from tests.seed import Account
from tests.world import api_key

NOVEMBER = date(2026, 11, 1)


@dataclass
class Person:
    """An account, and the card that it registered last."""

    account: Account
    card: RegisteredCard | None = None

    @property
    def card_in_form(self) -> str:
        """How a confirm with this card is known at the processor's door."""
        assert self.card is not None
        return f"payment_method={self.card.payment_method}"


People = Mapping[str, Person]


@dataclass(frozen=True)
class Expected:
    """What one person's October must come to, however often we crash; minor units.

    `requests`: how many requests reach a bank, declines included: no crash sends another. `intents`:
    PaymentIntents at the processor; a create whose answer is lost is found again under its key. `ends`: the
    payment's state at the end.
    """

    owes: int
    requests: int = 1
    intents: int = 1
    ends: str = "paid"

    @property
    def pays(self) -> list[int]:
        return [self.owes] if self.ends == "paid" else []


@dataclass(frozen=True)
class Story:
    """People with cards (None: no card yet), what happens to them, and what it must come to."""

    cards: Mapping[str, CardStory | None]
    tell: Callable[[Company, People], None]
    expected: Mapping[str, Expected]


@dataclass(frozen=True)
class Lived:
    """How a story went: arrivals by point, lives it took, what the dead did."""

    arrivals: Counter[Failpoint]
    lives: int
    has_crashed: bool
    after_death: tuple[str, ...]


def live(
    story: Story, engine: Engine, database_url: str, point: Failpoint, arrival: int = 1, web_url: str | None = None
) -> Lived:
    """Live through a story with a crash at one arrival, and assert that at its end nobody can tell.

    `arrival` 0 is no crash at all. With `web_url` the web process isn't ours, and may die as it likes. Where money
    is charged, the message in hand comes again at once, to provoke a second request; elsewhere it is lost, to tempt
    us to forget.
    """
    crash = Crash(point, arrival)
    with armed(crash), living_company(engine, database_url, NOVEMBER, crash, web_url) as company:
        company.redelivers = point.startswith(("charge.", "record.", "settle.", "end."))
        people = {name: _person(company, name, story) for name in story.expected}
        story.tell(company, people)
        _assert_nobody_can_tell(company, people, story.expected)
        return Lived(crash.arrivals, company.lives, crash.happened, tuple(crash.after_death))


def new_card(company: Company, card: CardStory | None = None) -> str:
    """A card of its own, because a network's budget is counted by card: its token."""
    return company.world.simulator.make_card("global", card).token


def _person(company: Company, name: str, story: Story) -> Person:
    account = company.account(name)
    company.fee(account, story.expected[name].owes)
    card = story.cards[name]
    return Person(
        account, None if card is None else company.world.add_primary_card(account, new_card(company, card))
    )


def _assert_nobody_can_tell(company: Company, people: People, expected: Mapping[str, Expected]) -> None:
    """Each ended as it should, paid once and to the cent; no request too many, nothing open, records equal."""
    payments = {name: company.payment(person.account) for name, person in people.items()}
    owners = {str(payment): name for name, payment in payments.items()}
    captured: dict[str, list[int]] = {name: [] for name in people}
    for line in company.world.simulator.iter_ledger():
        captured[owners[line.metadata["duecourse_payment_id"]]].append(line.amount)
    assert captured == {name: one.pays for name, one in expected.items()}
    states = {name: company.state(payment) for name, payment in payments.items()}
    assert states == {name: one.ends for name, one in expected.items()}
    assert _requests(company, owners) == {name: one.requests for name, one in expected.items() if one.requests}
    assert _intents_there(company, owners) == {name: one.intents for name, one in expected.items() if one.intents}
    _assert_nothing_is_open(company, expected)
    assert_verify_is_clean(company)


def _requests(company: Company, owners: Mapping[str, str]) -> dict[str, int]:
    """How many requests reached each one's banks, by the processor's own list of charges."""
    charges = company.world.runtime.gateways["global"].list_charges(
        datetime(2026, 10, 1, tzinfo=UTC), company.now + timedelta(hours=1)
    )
    return dict(Counter(owners[charge.metadata["duecourse_payment_id"]] for charge in charges))


def _intents_there(company: Company, owners: Mapping[str, str]) -> dict[str, int]:
    """How many PaymentIntents the processor has for each one's payment, canceled ones too."""
    answer = company.http.get(
        f"{company.world.simulator.url}/v1/payment_intents", params={"limit": 100}, auth=(api_key("global"), "")
    )
    answer.raise_for_status()
    return dict(Counter(owners[intent["metadata"]["duecourse_payment_id"]] for intent in answer.json()["data"]))


def _assert_nothing_is_open(company: Company, expected: Mapping[str, Expected]) -> None:
    counts = {
        "payments": len(expected),
        "invoices": len(expected),
        "receipts": sum(len(one.pays) for one in expected.values()),
        "payment_attempts WHERE state IN ('started', 'unknown')": 0,
        "runs WHERE state <> 'finished'": 0,
        "findings WHERE resolved_at IS NULL": 0,
        "payments WHERE pending_close_as IS NOT NULL": 0,
        "bulk_actions WHERE state <> 'finished'": 0,
        "bulk_items WHERE state <> 'done'": 0,
    }
    with company.world.engine.connect() as connection:
        counted = {what: connection.scalar(text(f"SELECT count(*) FROM {what}")) for what in counts}
        booked = connection.scalar(text("SELECT sum(amount_minor) FROM receipts"))
        invoiced = connection.scalar(text("SELECT counts ->> 'invoices' FROM runs WHERE job = 'monthly-invoices'"))
    assert counted == counts
    assert invoiced == str(len(expected)), "the run counts what it did"
    assert booked == sum(sum(one.pays) for one in expected.values())
    assert company.pending() == {}
