"""Operators use the same transitions as the machine, with a name and a reason (I14)."""

from datetime import timedelta

from shared.db.billing_events import Cause
from shared.domain.refusals import Refused
from shared.payments.operator.charge import request_charge
from tests.world import World


def test_operator_action_without_a_reason_changes_nothing(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account, next_attempt_at=world.clock.now() + timedelta(days=1))
    before = world.payment(payment)
    with world.engine.begin() as connection:
        answer = request_charge(
            connection, payment, Cause("operator:anna", world.clock.now(), "  "), world.machine()
        )
    assert isinstance(answer, Refused)
    assert world.payment(payment) == before
