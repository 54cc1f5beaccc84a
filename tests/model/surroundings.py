"""What the model's rules use: accounts and their cards, the mailbox, undelivered webhooks, and both clocks."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Any, ClassVar
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis.stateful import RuleBasedStateMachine

from scheduler.sweep import Sweep
from scheduler.tick import tick
from shared.db.billing_events import Cause
from shared.db.query_terms import Moment
from shared.domain.calendar import Period
from shared.messaging.jobs import (
    ApplyStripeEvent,
    ChargePayment,
    GenerateInvoices,
    Job,
    ReconcileCharges,
    RetryPayments,
    SettleAttempt,
)
from shared.payments.operator.charge import request_charge
from simulator.client import RegisteredCard, SimulatorError
from simulator.issuer.stories import Story
from tests.model.company import COVERAGES, Company, is_for_us
from tests.model.snapshot import ChargeSnapshot, Looker
from tests.model.workers import Where, Worker, work_or_die
from tests.seed import Account, add_account, add_card, add_fee

#: Whose answer is lost and how, and what becomes of a worker and where.
Lost = tuple[str, str] | None
Fate = tuple[str, Where] | None

ALL_KINDS = (ChargePayment, SettleAttempt, ApplyStripeEvent, GenerateInvoices, RetryPayments, ReconcileCharges)
#: The first coverage to see a new month.
FIRST_ZONE = ZoneInfo("Asia/Tokyo")
MAX_MONTHS = 4
MAX_STANDING = 2
#: More rounds than any quiet company has work for.
ROUNDS = 60


@dataclass
class Person:
    """An account with the cards that it ever registered, the newest last."""

    account: Account
    customer: str
    cards: list[RegisteredCard] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    story: str = ""


class Surroundings(RuleBasedStateMachine):
    """Everything but the rules. `company` is given by the test and serves all examples."""

    company: ClassVar[Company]
    #: What happened, over all examples: a model in which nothing is declined or lost proves nothing.
    met: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        #: Charges and disputes at the processor, which must be told by the end.
        self.refunded: set[str] = set()
        self.disputed: set[str] = set()
        self.company.begin()
        self.looker = Looker(self.company)
        self.people: list[Person] = []
        self.standing: list[Worker] = []
        self.mail: list[tuple[str, dict[str, Any]]] = []
        self.last_event: dict[str, str] = {}
        self.event_order: dict[str, int] = {}
        self.snapshot: ChargeSnapshot = self._look()

    def _join(self, external_id: str, coverage: str, story_name: str, story: Story) -> Person:
        company = self.company
        customer = company.gateways[coverage].create_customer({}, f"customer-{external_id}")
        with company.engine.begin() as connection:
            account = add_account(connection, external_id, coverage, stripe_customer_id=customer)
        person = Person(account, customer, story=story_name)
        token = company.simulator.make_card(company.account_of(coverage), story).token
        card = self.at_processor(person, token)
        with company.engine.begin() as connection:
            add_card(
                connection,
                account,
                stripe_payment_method_id=card.payment_method,
                last4=card.last4,
                fingerprint=card.fingerprint,
            )
        return person

    def enqueue_due_jobs(self) -> None:
        """A leader's sweep, without memory."""
        company = self.company
        waiting = [job.queue for job in company.mailbox]
        Sweep(company.engine, company.runtime.enqueue, waiting.count)(self._moment())

    def _look(self) -> ChargeSnapshot:
        in_hand = {job.payment_id for job in (w.job for w in self.standing) if isinstance(job, ChargePayment)}
        return self.looker.look(in_hand | self._settling())

    def _settling(self) -> set[UUID]:
        attempts = {w.job.attempt_id for w in self.standing if isinstance(w.job, SettleAttempt)}
        return {a.payment_id for a in self.snapshot.all_attempts() if a.id in attempts} if attempts else set()

    def _moment(self) -> Moment:
        return Moment(self.company.clock.now(), self.company.machine.now())

    def _person(self, which: int) -> Person:
        return self.people[which % len(self.people)]

    def _payment(self, which: int) -> Any:
        return list(self.snapshot.payments.values())[which % len(self.snapshot.payments)]

    def at_processor(self, person: Person, token: str, intent: str = "replace") -> RegisteredCard:
        # Which of two cards was registered later is known to the second: that is as fine as Stripe's events tell.
        self.company.clock.moment += timedelta(seconds=1)
        metadata = {"duecourse_settings_id": str(person.account.settings_id), "duecourse_intent": intent}
        account = self.company.account_of(person.account.coverage)
        card = self.company.simulator.register_card(account, person.customer, token, metadata)
        person.cards.append(card)
        person.tokens.append(token)
        return card

    def _at_processors_desk(self, act: Callable[[], object]) -> None:
        """Something that the processor may refuse, which is as good as not done."""
        try:
            act()
        except SimulatorError:
            return

    def _months_left(self) -> int:
        return MAX_MONTHS - len({payment.period for payment in self.snapshot.payments.values()})

    def _month_passes(self, amounts: Sequence[int]) -> None:
        now = self.company.clock.now()
        zone = ZoneInfo("Asia/Tokyo")  # the first to see a new month
        period = Period.of(now.astimezone(zone).date())
        with self.company.engine.begin() as connection:
            for person, amount in zip(self.people, amounts, strict=True):
                add_fee(connection, person.account, amount, str(period))
        self._pass_business_time(datetime.combine(period.next.first_day, time(0, 30), now.tzinfo))

    def _pass_business_time(self, until: datetime) -> None:
        company = self.company
        company.clock.moment = until
        company.mailbox += tick(company.engine, company.policy, until)

    def pass_machine_time(self, step: timedelta) -> None:
        self.company.set_machine(self.company.machine.now() + step)
        if step >= timedelta(hours=24):
            self.company.simulator.prune_idempotency_keys()

    def operator_requests_charge(self, payment_id: UUID) -> None:
        with self.company.engine.begin() as connection:
            requested = request_charge(
                connection,
                payment_id,
                Cause("operator:anna", self.company.clock.now(), "the customer is on the phone"),
                self.company.machine.now(),
            )
        if isinstance(requested, ChargePayment):
            self.company.mailbox.append(requested)

    # workers

    def _kill_at(self, job: Job, step: Where) -> None:
        if killed_at := work_or_die(lambda: self.company.do(job), step):
            self.met[f"killed at {killed_at.split()[0].split('.')[0]}"] += 1

    def _stand_at(self, job: Job, place: Where) -> None:
        """Let a worker begin and freeze; if too many are frozen, it isn't."""
        if len(self.standing) == MAX_STANDING:
            self.company.do(job)
            return
        worker = Worker(job, lambda: self.company.do(job), place)
        if worker.is_standing:
            self.met[f"stood at {worker.stands_at}"] += 1
            worker.attempt_id = self._open_attempt_of(job)
            self.standing.append(worker)

    def _charge_message_comes(self, payment: Any, lost: Lost, fate: Fate) -> None:
        job = ChargePayment(payment.id, payment.lane)
        if lost is not None:
            kind, operation = lost
            is_known = any(intent.closed_reason is None for intent in self.snapshot.intents[payment.id])
            self.company.weather.add(kind, "confirm" if is_known else operation, times=1)
        match fate:
            case ("killed", where):
                self._kill_at(job, where)
            case ("stands", where):
                self._stand_at(job, where)
            case _:
                self.company.do(job)

    # messages

    def _take(self, which: int) -> Job | None:
        """Take one message; if none waits, the sweep rings first. Their order doesn't depend on random ids."""
        mailbox = self.company.mailbox
        if not mailbox:
            self.enqueue_due_jobs()
        if not mailbox:
            return None
        mailbox.sort(key=self._label)
        return mailbox.pop(which % len(mailbox))

    def _label(self, job: Job) -> tuple[str, ...]:
        snapshot = self.snapshot
        match job:
            case ChargePayment(payment_id):
                return (job.name, *self._name_of(payment_id), job.lane)
            case SettleAttempt(attempt_id):
                attempt = next((a for a in snapshot.all_attempts() if a.id == attempt_id), None)
                assert attempt is not None, "a message about a row that isn't committed"
                return (job.name, *self._name_of(attempt.payment_id), f"{attempt.number:03}")
            case ApplyStripeEvent(_, stripe_event_id):
                # Reconciliation may have listed it before we read of it: then its place is that of its message.
                order = self.event_order.setdefault(stripe_event_id, len(self.event_order))
                return (job.name, f"{order:05}")
            case GenerateInvoices(run_id) | RetryPayments(run_id) | ReconcileCharges(run_id):
                run = next(run for run in snapshot.runs if run.id == run_id)
                return (job.name, run.period, run.coverage)
        raise AssertionError(job)

    def _name_of(self, payment_id: UUID) -> tuple[str, str]:
        payment = self.snapshot.payments[payment_id]
        return payment.external_id, str(payment.period)

    def work_on(self, *kinds: type) -> None:
        """Do the messages of these kinds that wait, and those of the same kinds that come of it."""
        for _ in range(ROUNDS):
            self.snapshot = self.look_without_news()
            waiting = [job for job in self.company.mailbox if isinstance(job, kinds)]
            if not waiting:
                return
            self.company.mailbox[:] = [job for job in self.company.mailbox if not isinstance(job, kinds)]
            for job in sorted(waiting, key=self._label):
                self.company.do(job)
        raise AssertionError(f"never done: {self.company.mailbox}")

    def look_without_news(self) -> ChargeSnapshot:
        """Look at the rows; the billing events are left for the invariants to play."""
        return self.looker.look(set(), plays=False)

    # webhooks

    def _read_news(self) -> None:
        """What the processor has told since, by the order in which it told it."""
        for coverage in COVERAGES:
            for event in self.company.news(coverage, self.last_event.get(coverage)):
                self.last_event[coverage] = event["id"]
                if is_for_us(event):
                    self.event_order.setdefault(event["id"], len(self.event_order))
                    self.mail.append((coverage, event))

    def deliver_all(self, event_type: str) -> None:
        self._read_news()
        told = [one for one in self.mail if one[1]["type"] == event_type]
        self.mail = [one for one in self.mail if one[1]["type"] != event_type]
        for coverage, event in told:
            self.company.deliver(coverage, event)

    # what may move money while nothing is open

    def _open_attempt_of(self, job: Job) -> UUID | None:
        if not isinstance(job, ChargePayment):
            return None
        is_open = "SELECT id FROM payment_attempts WHERE payment_id = %s AND state IN ('started', 'unknown')"
        row = self.company.look.execute(is_open, (job.payment_id,)).fetchone()
        return None if row is None else UUID(str(row.id))

    def _note_if_overtaken(self, worker: Worker) -> None:
        """A frozen worker whose attempt was closed meanwhile may still ask, and its answer may be lost."""
        if isinstance(worker.job, ChargePayment):
            attempts = self.snapshot.attempts[worker.job.payment_id]
            if any(a.id == worker.attempt_id and a.finished_at is not None for a in attempts):
                self.met["overtaken workers"] += 1
                self.looker.loose.add(worker.job.payment_id)

    def _note_late(self, path: str) -> None:
        for intents in self.snapshot.intents.values():
            for intent in intents:
                if intent.stripe_payment_intent_id and f"/{intent.stripe_payment_intent_id}/" in path:
                    self.looker.loose.add(intent.payment_id)
