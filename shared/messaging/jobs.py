"""Every job: its permanent name, its queue and its ids. A message says "this row may want attention", no more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol
from uuid import UUID

from shared.domain.states import Lane

#: Somebody waits: a click, a card just registered, Stripe telling us something.
INTERACTIVE = "interactive"
#: Thousands at a time: month start, daily retries, settlement.
BATCH = "batch"
#: Set-based work in chunks; its own queue so that no charge waits behind a chunk.
RUNS = "runs"
#: Looks at attempts in doubt, and cancels what people end: short, each a request or two, and a payment waits for
#: it. Never behind ten thousand charges.
SETTLEMENT = "settlement"
#: Nightly reconciliation: long, and nothing waits for it. Never before a charge.
RECONCILIATION_QUEUE = "reconciliation"

QUEUES = (INTERACTIVE, BATCH, RUNS, SETTLEMENT, RECONCILIATION_QUEUE)
#: Queues and jobs of earlier releases, by their present names: workers still serve what lies in Redis under these.
RELEASED_QUEUES = {"night": RECONCILIATION_QUEUE}
RELEASED_JOBS = {"end_payment": "close_payment"}
QUEUE_OF_LANE = {Lane.INTERACTIVE: INTERACTIVE, Lane.BATCH: BATCH}


class Job(Protocol):
    """What `ring` needs to know of a job."""

    @property
    def name(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def arguments(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class ChargePayment:
    """Ask for one payment's money, if that is due."""

    payment_id: UUID
    lane: Lane
    name: ClassVar[str] = "charge_payment"

    @property
    def queue(self) -> str:
        return QUEUE_OF_LANE[self.lane]

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.payment_id),)


@dataclass(frozen=True)
class SettleAttempt:
    """Find out what became of an attempt whose answer is missing."""

    attempt_id: UUID
    name: ClassVar[str] = "settle_attempt"
    queue: ClassVar[str] = SETTLEMENT

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.attempt_id),)


@dataclass(frozen=True)
class ApplyStripeEvent:
    """Fetch the truth behind one stored Stripe event and apply it."""

    coverage: str
    stripe_event_id: str
    name: ClassVar[str] = "apply_stripe_event"
    queue: ClassVar[str] = INTERACTIVE

    @property
    def arguments(self) -> tuple[str, ...]:
        return (self.coverage, self.stripe_event_id)


@dataclass(frozen=True)
class GenerateInvoices:
    """Go on with one monthly run."""

    run_id: UUID
    name: ClassVar[str] = "generate_invoices"
    queue: ClassVar[str] = RUNS

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.run_id),)


@dataclass(frozen=True)
class RetryPayments:
    """Go on with one daily run."""

    run_id: UUID
    name: ClassVar[str] = "retry_payments"
    queue: ClassVar[str] = RUNS

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.run_id),)


@dataclass(frozen=True)
class ReconcileCharges:
    """Go on with one night's reconciliation."""

    run_id: UUID
    name: ClassVar[str] = "reconcile_charges"
    queue: ClassVar[str] = RECONCILIATION_QUEUE

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.run_id),)


@dataclass(frozen=True)
class ClosePayment:
    """Cancel the PaymentIntent of a payment that a person wants written off or void, and end it."""

    payment_id: UUID
    name: ClassVar[str] = "close_payment"
    queue: ClassVar[str] = SETTLEMENT

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.payment_id),)


@dataclass(frozen=True)
class ApplyBulkAction:
    """Go on with one bulk action."""

    bulk_id: UUID
    name: ClassVar[str] = "apply_bulk_action"
    queue: ClassVar[str] = RUNS

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.bulk_id),)


#: Jobs of the scheduler by the name that run rows carry (permanent).
MONTHLY_INVOICES = "monthly-invoices"
DAILY_RETRIES = "daily-retries"
RECONCILIATION = "reconciliation"


def job_of_run(run_job: str, run_id: UUID) -> Job:
    """Return the job that goes on with a run; KeyError for a run name that no release ever wrote."""
    of_run: dict[str, Callable[[UUID], Job]] = {
        MONTHLY_INVOICES: GenerateInvoices,
        DAILY_RETRIES: RetryPayments,
        RECONCILIATION: ReconcileCharges,
    }
    return of_run[run_job](run_id)
