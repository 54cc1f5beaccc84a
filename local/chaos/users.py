"""What customers, operators and users of Stripe's dashboard do during a run."""

from functools import partial
from typing import Any

from sqlalchemy import Row

from local.chaos.context import ChaosContext, Injectors, NotPossibleNow
from local.chaos.plan import Planned
from shared.accounts.forgotten_customers import find_customer, forget_customer
from shared.accounts.stripe_customers import create_customers
from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.domain.refusals import Refused
from shared.payments.operator.charge import request_charge, request_look_up
from simulator.client import SimulatorError
from simulator.issuer.stories import DeclinesThenPays, Pays, Story

#: How many payments a user tries before they give up.
TRIED_PAYMENTS = 8
_OPERATOR = "operator:chaos"

#: The customer's unpaid payments first, then held ones, then any other.
_UNPAID = """
    SELECT p.id FROM payments p
    WHERE p.state IN ('due', 'retry_scheduled', 'needs_payment_method', 'needs_authentication')
    ORDER BY p.settings_id = :settings_id DESC, p.held_until IS NOT NULL DESC, md5(CAST(p.id AS text) || :salt)
    LIMIT :limit
"""
_UNKNOWN = """
    SELECT payment_id AS id FROM payment_attempts WHERE state = 'unknown' ORDER BY md5(CAST(id AS text) || :salt)
    LIMIT :limit
"""
_LIVE_INTENTS = """
    SELECT i.stripe_payment_intent_id AS id, i.coverage FROM payment_intents i
    WHERE i.closed_reason IS NULL AND i.stripe_payment_intent_id IS NOT NULL
    ORDER BY md5(CAST(i.id AS text) || :salt) LIMIT :limit
"""

_STRIPE_CUSTOMER = """
    SELECT stripe_customer_id FROM payment_settings WHERE id = :settings_id AND stripe_customer_id IS NOT NULL
"""
_KNOWN = """
    SELECT s.stripe_customer_id, a.external_id FROM payment_settings s JOIN accounts a ON a.id = s.account_id
    WHERE s.id = :settings_id AND s.stripe_customer_id IS NOT NULL
      AND EXISTS (SELECT FROM cards c WHERE c.settings_id = s.id)
"""
_CAPTURED = """
    SELECT r.stripe_charge_id AS id, r.coverage FROM receipts r
    WHERE r.stripe_charge_id IS NOT NULL ORDER BY md5(CAST(r.id AS text) || :salt) LIMIT :limit
"""


def card_registered(context: ChaosContext, fault: Planned) -> None:
    """A customer registers another card, which usually pays."""
    customer = _customer(context, fault)
    story = Pays() if fault.get("pays") else DeclinesThenPays(times=2, decline_code="do_not_honor")
    _register(context, customer, story)
    context.record_hit(fault.kind)


def _register(context: ChaosContext, customer: Row[Any], story: Story) -> None:
    """Register a card with the customer's present Stripe customer. SimulatorError if that one is deleted."""
    rows = context.company.rows(_STRIPE_CUSTOMER, settings_id=customer.id)
    if not rows:
        raise NotPossibleNow("its Stripe customer was deleted")
    metadata = {"duecourse_settings_id": str(customer.id), "duecourse_intent": "replace"}
    with context.company.simulator(timeout_s=5) as simulator:
        card = simulator.make_card(customer.coverage, story)
        simulator.register_card(customer.coverage, rows[0].stripe_customer_id, card.token, metadata)


def operator_charge(context: ChaosContext, fault: Planned) -> None:
    """An operator charges a payment now; if that is refused, another payment is tried."""
    runtime = context.company.runtime
    salt = str(fault.sequence)
    rows = context.company.rows(_UNPAID, settings_id=_customer(context, fault).id, salt=salt, limit=TRIED_PAYMENTS)
    for row in rows:
        answer = in_transaction(
            runtime.engine,
            partial(
                request_charge,
                payment_id=row.id,
                cause=Cause(_OPERATOR, runtime.clock.now(), "chaos"),
                machine_now=runtime.machine_now(),
            ),
        )
        if not isinstance(answer, Refused):
            context.record_hit(fault.kind)
            runtime.enqueue([answer])
            return
    raise NotPossibleNow("every payment was refused")


def operator_look_up(context: ChaosContext, fault: Planned) -> None:
    """An operator looks up an attempt with unknown outcome now."""
    runtime = context.company.runtime
    for row in context.company.rows(_UNKNOWN, salt=str(fault.sequence), limit=TRIED_PAYMENTS):
        answer = in_transaction(
            runtime.engine,
            partial(
                request_look_up,
                payment_id=row.id,
                cause=Cause(_OPERATOR, runtime.clock.now(), "chaos"),
                machine_now=runtime.machine_now(),
            ),
        )
        if not isinstance(answer, Refused):
            context.record_hit(fault.kind)
            runtime.enqueue([answer])
            return
    raise NotPossibleNow("no attempt has an unknown outcome")


def dashboard_cancel(context: ChaosContext, fault: Planned) -> None:
    """A user cancels a PaymentIntent in the processor's dashboard."""
    with context.company.simulator(timeout_s=5) as simulator:
        for row in context.company.rows(_LIVE_INTENTS, salt=str(fault.sequence), limit=TRIED_PAYMENTS):
            try:
                simulator.cancel_payment_intent(row.coverage, row.id)
            except SimulatorError:
                continue  # paid or canceled in the meantime
            context.record_hit(fault.kind)
            return
    raise NotPossibleNow("no PaymentIntent could be canceled")


def dashboard_refund(context: ChaosContext, fault: Planned) -> None:
    """A user refunds a charge in the processor's dashboard: all of it, or one minor unit."""
    amount = None if fault.get("pays") else 1
    with context.company.simulator(timeout_s=5) as simulator:
        for row in context.company.rows(_CAPTURED, salt=str(fault.sequence), limit=TRIED_PAYMENTS):
            try:
                simulator.refund_charge(row.coverage, row.id, amount)
            except SimulatorError:
                continue  # refunded already
            context.refunded[row.id] = context.company.runtime.clock.now()
            context.record_hit(fault.kind)
            return
    raise NotPossibleNow("no charge could be refunded")


def charge_disputed(context: ChaosContext, fault: Planned) -> None:
    """A cardholder's bank disputes a charge; if it decides for us, the news of both may arrive in any order."""
    with context.company.simulator(timeout_s=5) as simulator:
        for row in context.company.rows(_CAPTURED, salt=str(fault.sequence), limit=TRIED_PAYMENTS):
            try:
                dispute = simulator.dispute_charge(row.coverage, row.id)
            except SimulatorError:
                continue  # disputed already
            context.disputed[dispute] = context.company.runtime.clock.now()
            if fault.get("pays"):
                simulator.close_dispute(row.coverage, dispute, is_won=True)
            context.record_hit(fault.kind)
            return
    raise NotPossibleNow("no charge could be disputed")


def customer_deleted(context: ChaosContext, fault: Planned) -> None:
    """A user deletes a customer; an operator forgets it, and a card is registered with another one."""
    company, customer = context.company, _customer(context, fault)
    (known,) = company.rows(_KNOWN, settings_id=customer.id) or (None,)
    if known is None:
        raise NotPossibleNow("it has no Stripe customer now")
    with company.simulator(timeout_s=5) as simulator:
        simulator.delete_customer(customer.coverage, known.stripe_customer_id)
    context.record_hit(fault.kind)
    if fault.get("pays"):
        context.retry_until_done(lambda: _give_another(context, customer, known.external_id))


def _give_another(context: ChaosContext, customer: Row[Any], account: str) -> None:
    """What `customers forget` and `customers create` do, then a card. Safe to repeat."""
    runtime, coverage = context.company.runtime, customer.coverage
    with runtime.engine.connect() as connection:
        seen = find_customer(connection, account, coverage)
    if seen is not None:
        missing = runtime.gateways[coverage].find_missing(seen.stripe_customer_id, seen.a_payment_method_id)
        cause = Cause(_OPERATOR, runtime.clock.now(), "chaos")
        answer = in_transaction(
            runtime.engine, lambda connection: forget_customer(connection, seen, missing, cause)
        )
        if isinstance(answer, Refused):
            raise NotPossibleNow(answer.reason)
    create_customers(runtime, runtime.gateways[coverage], coverage, _OPERATOR, threads=1)
    _register(context, customer, Pays())


def _customer(context: ChaosContext, fault: Planned) -> Row[Any]:
    customers = context.company.customers
    number: int = fault.get("person")
    return customers[number % len(customers)]


INJECTORS: Injectors = {
    "card_registered": card_registered,
    "operator_charge": operator_charge,
    "operator_look_up": operator_look_up,
    "dashboard_cancel": dashboard_cancel,
    "dashboard_refund": dashboard_refund,
    "charge_disputed": charge_disputed,
    "customer_deleted": customer_deleted,
}
