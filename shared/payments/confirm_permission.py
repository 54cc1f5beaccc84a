"""Commit the PaymentIntent's id between create and confirm, while this worker still owns the attempt."""

from datetime import datetime

from sqlalchemy import Connection, or_, update

from shared.db.tables.payments import payment_attempts, payment_intents
from shared.domain.states import AttemptState
from shared.gateway.port import PaymentIntentSnapshot
from shared.payments.claim import Claimed


def allow_confirm(
    connection: Connection, claimed: Claimed, snapshot: PaymentIntentSnapshot, machine_now: datetime
) -> bool:
    """Store the PaymentIntent's id before its confirm is sent; False if settlement has taken the attempt."""
    is_ours = connection.execute(
        update(payment_attempts)
        .where(payment_attempts.c.id == claimed.attempt_id, payment_attempts.c.state == AttemptState.STARTED)
        .values(confirm_allowed_at=machine_now)
        .returning(payment_attempts.c.id)
    ).one_or_none()
    if is_ours is None:
        return False
    known = payment_intents.c.stripe_payment_intent_id
    committed = connection.execute(
        update(payment_intents)
        .where(payment_intents.c.id == claimed.payment_intent_id, or_(known.is_(None), known == snapshot.stripe_id))
        .values(stripe_payment_intent_id=snapshot.stripe_id, status=snapshot.status)
        .returning(payment_intents.c.id)
    ).one_or_none()
    return committed is not None
