"""End an attempt with unknown outcome whose PaymentIntent doesn't exist at Stripe: an admin's decision (I14).

A key of another Stripe account makes every object look missing. So it counts only if the same key sees the customer
or the card of the attempt.
"""

from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Connection, select

from shared.db.billing_events import Cause
from shared.db.tables.payments import payment_attempts, payment_intents
from shared.domain.refusals import NO_REASON, Refused
from shared.domain.states import AttemptState
from shared.operations.audit_log import AuditAction, record_decision
from shared.payments.locked_rows import lock_by_attempt
from shared.payments.record_outcome import end_lost_attempt
from shared.runtime import Runtime


@dataclass(frozen=True)
class LostAttempt:
    """An attempt with unknown outcome, and what is looked up at Stripe about it."""

    attempt_id: UUID
    payment_id: UUID
    number: int
    coverage: str
    stripe_payment_intent_id: str
    stripe_customer_id: str
    stripe_payment_method_id: str | None


@dataclass(frozen=True)
class Evidence:
    """What Stripe answered. `is_lost`: the key is right and the PaymentIntent doesn't exist."""

    is_lost: bool
    words: str

    def __str__(self) -> str:
        return self.words


def find_unknown_attempt(connection: Connection, payment_id: UUID) -> LostAttempt | None:
    """Return the payment's attempt with unknown outcome, if it has one whose PaymentIntent's id is known."""
    row = connection.execute(
        select(payment_attempts, payment_intents.c.stripe_payment_intent_id, payment_intents.c.stripe_customer_id)
        .join(payment_intents, payment_intents.c.id == payment_attempts.c.payment_intent_id)
        .where(
            payment_attempts.c.payment_id == payment_id,
            payment_attempts.c.state == AttemptState.UNKNOWN,
            payment_intents.c.stripe_payment_intent_id.is_not(None),
        )
    ).one_or_none()
    if row is None:
        return None
    return LostAttempt(
        row.id,
        payment_id,
        row.number,
        row.coverage,
        row.stripe_payment_intent_id,
        row.stripe_customer_id,
        row.stripe_payment_method_id,
    )


def end_unknown_attempt(
    connection: Connection, runtime: Runtime, seen: LostAttempt, evidence: Evidence, cause: Cause
) -> LostAttempt | Refused:
    """End the attempt as not sent and hold its payment; refused without a reason or evidence."""
    _, attempt = lock_by_attempt(connection, seen.attempt_id)
    refused = None
    if not cause.reason.strip():
        refused = NO_REASON
    elif attempt.state != AttemptState.UNKNOWN:
        refused = Refused(f"attempt {attempt.number} is {attempt.state} by now", "nothing: its outcome is known")
    elif not evidence.is_lost:
        refused = Refused(evidence.words, "wait for its look-up, and check the key with `duecourse doctor`")
    if refused is None:
        said = f"ended by {cause.actor}: {cause.reason.strip()} ({evidence.words})"
        end_lost_attempt(connection, runtime, seen.attempt_id, replace(cause, reason=said))
    record_decision(
        connection,
        AuditAction.PAYMENT_END_ATTEMPT,
        ("payment", str(seen.payment_id)),
        cause,
        refused,
        {"attempt": str(seen.attempt_id), "stripe": evidence.words},
    )
    return seen if refused is None else refused
