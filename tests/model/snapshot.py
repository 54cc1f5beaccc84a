"""A snapshot after a step: our rows, new billing events, and the processor's ledger.

The billing events are played as they grow, so that the states it leads to can be compared with what the rows say.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID

from rich.console import Console
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect

from cli.payment_text import print_explanation
from shared.db.query_terms import Moment
from shared.domain.states import OPEN_ATTEMPT
from shared.explain.explanation import explain_payment
from shared.messaging.jobs import Job
from shared.scheduling.due_work import DUE_WORK, DueWork
from simulator.client import LedgerLine
from tests.model.company import COVERAGES, Company


def _as_sent(source: DueWork) -> str:
    """The sweep's own query, in the form that the driver sends."""
    any_moment = datetime(2026, 1, 1, tzinfo=UTC)
    query = source.query.params(Moment(any_moment, any_moment).parameters(webhook_enqueues_within=timedelta(0)))
    return str(query.compile(dialect=psycopg_dialect(), compile_kwargs={"render_postcompile": True}))


_SOURCES = [(source, _as_sent(source)) for source in DUE_WORK]
_PAYMENTS = """
    SELECT p.*, a.external_id, s.card_revision, s.primary_card_id, s.stripe_customer_id,
           c.detached_at AS card_detached_at,
           EXISTS (SELECT FROM card_blocks b WHERE b.coverage = p.coverage AND b.fingerprint = c.fingerprint)
               AS is_card_blocked
    FROM payments p
    JOIN accounts a ON a.id = p.account_id
    JOIN payment_settings s ON s.id = p.settings_id
    LEFT JOIN cards c ON c.id = s.primary_card_id
    ORDER BY a.external_id, p.period
"""


#: No event has a greater id.
LAST_OF_ALL = 2**62


class BrokenError(AssertionError):
    """An invariant doesn't hold; the message has the billing events of the payment in question."""


@dataclass
class Replay:
    """What the billing events, played from their start, say that everything is."""

    payments: dict[UUID, str] = field(default_factory=dict)
    attempts: dict[UUID, str] = field(default_factory=dict)
    standings: dict[UUID, str] = field(default_factory=dict)
    #: The card revision that the customer's last registration led to, by account and coverage.
    registered: dict[tuple[UUID, str], int] = field(default_factory=dict)
    last_event_id: int = 0


@dataclass
class ChargeSnapshot:
    """All rows at one moment, between two steps. `news` are the billing events since the look before."""

    company: Company
    now: datetime
    machine_now: datetime
    replay: Replay
    payments: dict[UUID, Any]
    attempts: dict[UUID, list[Any]]
    intents: dict[UUID, list[Any]]
    receipts: list[Any]
    accounts: list[Any]
    runs: list[Any]
    stripe_events: list[Any]
    news: list[Any]
    #: What the sweep's sources find at this moment.
    due: list[Job]
    ledger: list[LedgerLine]
    #: Payments whose money may have moved while no attempt of theirs was open: a late request, a frozen worker.
    loose: set[UUID]
    #: Payments that a worker stands in the middle of.
    in_hand: set[UUID]

    def open_attempts(self, payment_id: UUID) -> list[Any]:
        return [attempt for attempt in self.attempts[payment_id] if attempt.state in OPEN_ATTEMPT]

    def all_attempts(self) -> Iterable[Any]:
        return (attempt for attempts in self.attempts.values() for attempt in attempts)

    def lines_of(self, payment_id: UUID) -> list[LedgerLine]:
        return [line for line in self.ledger if payment_of(line) == payment_id]

    def broken(self, what: str, payment_id: UUID | None = None) -> BrokenError:
        """The error to raise, with the billing events."""
        return BrokenError(what if payment_id is None else f"{what}\n\n{self.billing_events_of(payment_id)}")

    def billing_events_of(self, payment_id: UUID) -> str:
        """What `duecourse payment show` prints, and beside it the rows and the processor's lines."""
        written = StringIO()
        console = Console(file=written, width=150, color_system=None)
        company = self.company
        with company.engine.connect() as connection:
            told = explain_payment(connection, company.policy, payment_id, self.now, self.machine_now)
        print_explanation(console, told)
        for name, rows in (("attempt", self.attempts[payment_id]), ("PaymentIntent", self.intents[payment_id])):
            for row in rows:
                said = {key: value for key, value in row._asdict().items() if value is not None}
                written.write(f"\n{name} {said}\n")
        for line in self.lines_of(payment_id):
            written.write(f"\nledger {line}\n")
        written.write(f"\nbusiness time {self.now}, machine time {self.machine_now}\n")
        return written.getvalue()


class Looker:
    """Looks again and again, through one example."""

    def __init__(self, company: Company) -> None:
        self._company = company
        self._replay = Replay()
        self._ledger: list[LedgerLine] = []
        self._ledger_as_of = -1
        self.loose: set[UUID] = set()

    def look(self, in_hand: set[UUID], *, plays: bool = True) -> ChargeSnapshot:
        """Look at everything, in one round trip; without `plays` new billing events are left for the next look."""
        company, moment = self._company, Moment(self._company.clock.now(), self._company.machine.now())
        parameters = moment.parameters(webhook_enqueues_within=timedelta(0))
        ledger = self._read_ledger()
        with company.look.pipeline():
            ask = company.look.execute
            last = self._replay.last_event_id if plays else LAST_OF_ALL
            news = ask("SELECT * FROM billing_events WHERE id > %s ORDER BY id", (last,))
            payments = ask(_PAYMENTS)
            attempts = ask("SELECT * FROM payment_attempts ORDER BY payment_id, number")
            intents = ask("SELECT * FROM payment_intents ORDER BY payment_id, ordinal")
            receipts = ask("SELECT * FROM receipts")
            accounts = ask("SELECT id, external_id, standing FROM accounts")
            runs = ask("SELECT * FROM runs")
            stripe_events = ask("SELECT * FROM stripe_events")
            due = [(source, ask(query, parameters)) for source, query in _SOURCES]
        seen = ChargeSnapshot(
            company=company,
            now=moment.now,
            machine_now=moment.machine_now,
            replay=self._replay,
            payments={row.id: row for row in payments.fetchall()},
            attempts=_by_payment(attempts.fetchall()),
            intents=_by_payment(intents.fetchall()),
            receipts=receipts.fetchall(),
            accounts=accounts.fetchall(),
            runs=runs.fetchall(),
            stripe_events=stripe_events.fetchall(),
            news=news.fetchall(),
            due=[source.job(row) for source, found in due for row in found.fetchall()],
            ledger=ledger,
            loose=self.loose,
            in_hand=in_hand,
        )
        if seen.news:
            self._replay.last_event_id = seen.news[-1].id
        return seen

    def _read_ledger(self) -> list[LedgerLine]:
        """The processor's own book, read again if any request was applied since."""
        company = self._company
        if self._ledger_as_of != company.weather.applied:
            self._ledger_as_of = company.weather.applied
            self._ledger = [
                line for coverage in COVERAGES for line in company.simulator.ledger(company.account_of(coverage))
            ]
        return self._ledger


def payment_of(line: LedgerLine) -> UUID:
    """Whose money a line of the ledger is; each charge of ours carries the payment's id."""
    return UUID(line.metadata["duecourse_payment_id"])


def _by_payment(rows: Iterable[Any]) -> dict[UUID, list[Any]]:
    found: dict[UUID, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.payment_id].append(row)
    return found
