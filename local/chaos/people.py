"""What people do in the middle of it: customers register cards, operators click, somebody sits at the dashboard."""

from typing import Any

from sqlalchemy import Row

from local.chaos.context import ChaosContext, NotNow, Strikes
from local.chaos.plan import Planned
from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.domain.refusals import Refused
from shared.payments.operator.charge import request_charge, request_look_up
from simulator.client import SimulatorError
from simulator.issuer.stories import DeclinesThenPays, Pays

#: How many payments a person looks at before they go for a coffee.
LOOKED_AT = 8
_WHO = "operator:chaos"

#: The person's own unpaid payments first, then what waits for an operator, then any other.
_UNPAID = """
    SELECT p.id FROM payments p
    WHERE p.state IN ('due', 'retry_scheduled', 'needs_payment_method', 'needs_authentication')
    ORDER BY p.settings_id = :settings_id DESC, p.held_until IS NOT NULL DESC, md5(CAST(p.id AS text) || :salt)
    LIMIT :limit
"""
_IN_DOUBT = """
    SELECT payment_id AS id FROM payment_attempts WHERE state = 'unknown' ORDER BY md5(CAST(id AS text) || :salt)
    LIMIT :limit
"""
_LIVE_INTENTS = """
    SELECT i.stripe_payment_intent_id AS id, i.coverage FROM payment_intents i
    WHERE i.closed_reason IS NULL AND i.stripe_payment_intent_id IS NOT NULL
    ORDER BY md5(CAST(i.id AS text) || :salt) LIMIT :limit
"""


def card_registered(scene: ChaosContext, fault: Planned) -> None:
    """A customer registers a card again; it mostly pays."""
    person = _person(scene, fault)
    story = Pays() if fault.get("pays") else DeclinesThenPays(times=2, decline_code="do_not_honor")
    metadata = {"duecourse_settings_id": str(person.id), "duecourse_intent": "replace"}
    with scene.company.simulator(timeout_s=5) as simulator:
        card = simulator.make_card(person.coverage, story)
        simulator.register_card(person.coverage, person.stripe_customer_id, card.token, metadata)
    scene.landed(fault.kind)


def operator_charge(scene: ChaosContext, fault: Planned) -> None:
    """An operator asks for a payment's money now; a refusal is an answer too, and another payment is tried."""
    runtime = scene.company.runtime
    salt = str(fault.sequence)
    rows = scene.company.rows(_UNPAID, settings_id=_person(scene, fault).id, salt=salt, limit=LOOKED_AT)
    for row in rows:
        answer = in_transaction(
            runtime.engine,
            lambda connection, row=row: request_charge(
                connection, row.id, Cause(_WHO, runtime.clock.now(), "chaos")
            ),  # type: ignore[misc]
        )
        if not isinstance(answer, Refused):
            scene.landed(fault.kind)
            runtime.enqueue([answer])
            return
    raise NotNow("every payment was refused")


def operator_look_up(scene: ChaosContext, fault: Planned) -> None:
    """An operator has an attempt in doubt looked up now."""
    runtime = scene.company.runtime
    for row in scene.company.rows(_IN_DOUBT, salt=str(fault.sequence), limit=LOOKED_AT):
        answer = in_transaction(
            runtime.engine,
            lambda connection, row=row: request_look_up(  # type: ignore[misc]
                connection, row.id, Cause(_WHO, runtime.clock.now(), "chaos"), runtime.machine_now()
            ),
        )
        if not isinstance(answer, Refused):
            scene.landed(fault.kind)
            runtime.enqueue([answer])
            return
    raise NotNow("no attempt is in doubt")


def dashboard_cancel(scene: ChaosContext, fault: Planned) -> None:
    """A person cancels a PaymentIntent in the processor's own dashboard, behind our back."""
    with scene.company.simulator(timeout_s=5) as simulator:
        for row in scene.company.rows(_LIVE_INTENTS, salt=str(fault.sequence), limit=LOOKED_AT):
            try:
                simulator.cancel_payment_intent(row.coverage, row.id)
            except SimulatorError:
                continue  # paid or canceled in the meantime
            scene.landed(fault.kind)
            return
    raise NotNow("no PaymentIntent could be canceled")


def _person(scene: ChaosContext, fault: Planned) -> Row[Any]:
    people = scene.company.people
    number: int = fault.get("person")
    return people[number % len(people)]


STRIKES: Strikes = {
    "card_registered": card_registered,
    "operator_charge": operator_charge,
    "operator_look_up": operator_look_up,
    "dashboard_cancel": dashboard_cancel,
}
