"""The account's other monthly invoices: for which of them its card was declined today."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select

from shared.db.query_terms import is_
from shared.db.tables.accounts import payment_settings
from shared.db.tables.payments import payment_attempts, payments
from shared.domain.dunning import INSUFFICIENT_FUNDS
from shared.domain.states import AttemptKind, AttemptState
from shared.payments.eligibility import SIBLING, is_sibling


def declines_of_siblings(since: ColumnElement[datetime], revision: ColumnElement[int]) -> Select[Any]:
    """Select the declines of a payment's siblings since the business day began, with the card of this revision.

    Of every trigger: what a customer or an operator started has tried the card too.
    """
    return (
        select(SIBLING.c.amount_minor, payment_attempts.c.decline_code, SIBLING.c.period)
        .select_from(SIBLING.join(payment_attempts, payment_attempts.c.payment_id == SIBLING.c.id))
        .where(
            is_sibling(),
            is_(payment_attempts.c.kind, AttemptKind.CHARGE),
            is_(payment_attempts.c.state, AttemptState.DECLINED),
            payment_attempts.c.card_revision == revision,
            payment_attempts.c.started_at >= since,
        )
    )


def is_declined_today(since: ColumnElement[datetime]) -> ColumnElement[bool]:
    """`why_not_today` as SQL, for an automatic charge of the enclosing query's payment with its settings."""
    forbids = or_(
        payment_attempts.c.decline_code.is_distinct_from(INSUFFICIENT_FUNDS),
        SIBLING.c.amount_minor <= payments.c.amount_minor,
    )
    declines = declines_of_siblings(since, payment_settings.c.card_revision).where(forbids)
    return declines.correlate(payments, payment_settings).exists()
