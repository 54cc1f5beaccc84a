"""All jobs: permanent name, queue and ids. A message only says "this row may need work"."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol
from uuid import UUID

from shared.domain.states import Lane

#: Someone waits: an operator clicked, a customer registered a card, Stripe sent an event.
INTERACTIVE = "interactive"
#: Thousands at a time: month start, daily retries, settlement.
BATCH = "batch"
#: Set-based work in chunks; its own queue so that no charge waits behind a chunk.
RUNS = "runs"
#: Looks up attempts with unknown outcome, and cancels payments to close. Each is a request or two, and a payment
#: waits for it. Never behind ten thousand charges.
SETTLEMENT = "settlement"
#: Nightly reconciliation: long, and no other work depends on it. Never before a charge.
RECONCILIATION_QUEUE = "reconciliation"

QUEUES = (INTERACTIVE, BATCH, RUNS, SETTLEMENT, RECONCILIATION_QUEUE)
#: Queues and jobs of earlier releases, with their current names: workers still process messages under the old ones.
RELEASED_QUEUES = {"night": RECONCILIATION_QUEUE}
RELEASED_JOBS = {"end_payment": "close_payment"}
QUEUE_OF_LANE = {Lane.INTERACTIVE: INTERACTIVE, Lane.BATCH: BATCH}


class Job(Protocol):
    """What `enqueue` needs to know of a job."""

    @property
    def name(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def arguments(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class ChargePayment:
    """Charge one payment, if it is due."""

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
    """Find out the outcome of an attempt whose answer is missing."""

    attempt_id: UUID
    name: ClassVar[str] = "settle_attempt"
    queue: ClassVar[str] = SETTLEMENT

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.attempt_id),)


@dataclass(frozen=True)
class ApplyStripeEvent:
    """Fetch the object of one stored Stripe event and apply its current state."""

    coverage: str
    stripe_event_id: str
    name: ClassVar[str] = "apply_stripe_event"
    queue: ClassVar[str] = INTERACTIVE

    @property
    def arguments(self) -> tuple[str, ...]:
        return (self.coverage, self.stripe_event_id)


@dataclass(frozen=True)
class GenerateInvoices:
    """Continue one monthly run."""

    run_id: UUID
    name: ClassVar[str] = "generate_invoices"
    queue: ClassVar[str] = RUNS

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.run_id),)


@dataclass(frozen=True)
class RetryPayments:
    """Continue one daily run."""

    run_id: UUID
    name: ClassVar[str] = "retry_payments"
    queue: ClassVar[str] = RUNS

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.run_id),)


@dataclass(frozen=True)
class ReconcileCharges:
    """Continue one nightly reconciliation run."""

    run_id: UUID
    name: ClassVar[str] = "reconcile_charges"
    queue: ClassVar[str] = RECONCILIATION_QUEUE

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.run_id),)


@dataclass(frozen=True)
class ClosePayment:
    """Cancel the PaymentIntent of a payment with a pending write-off or void, and close the payment."""

    payment_id: UUID
    name: ClassVar[str] = "close_payment"
    queue: ClassVar[str] = SETTLEMENT

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.payment_id),)


@dataclass(frozen=True)
class ApplyBulkAction:
    """Continue one bulk action."""

    bulk_id: UUID
    name: ClassVar[str] = "apply_bulk_action"
    queue: ClassVar[str] = RUNS

    @property
    def arguments(self) -> tuple[str, ...]:
        return (str(self.bulk_id),)


#: The scheduler's jobs by the name in run rows (permanent).
MONTHLY_INVOICES = "monthly-invoices"
DAILY_RETRIES = "daily-retries"
RECONCILIATION = "reconciliation"


def job_of_run(run_job: str, run_id: UUID) -> Job:
    """Return the job that continues a run; KeyError for a job name that no release ever wrote."""
    of_run: dict[str, Callable[[UUID], Job]] = {
        MONTHLY_INVOICES: GenerateInvoices,
        DAILY_RETRIES: RetryPayments,
        RECONCILIATION: ReconcileCharges,
    }
    return of_run[run_job](run_id)
