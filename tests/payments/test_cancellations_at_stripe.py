"""A PaymentIntent that was canceled at Stripe without a request of ours: what follows, by state and by reason."""

from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import text

from shared.payments.record_outcome import record_observation
from simulator.issuer.stories import AlwaysDeclines
from tests.world import World


def declined_with(world: World, code: str) -> UUID:
    """A declined payment whose PaymentIntent is live."""
    account = world.account("A-1")
    world.add_primary_card(account, story=AlwaysDeclines(decline_code=code))
    payment = world.add_due_payment(account)
    world.charge(payment)
    return payment


def canceled_at_stripe(world: World, payment: UUID, reason: str | None) -> None:
    """Cancel it there; a webhook of it arrives. The simulator can't give each reason that Stripe may."""
    (intent,) = world.intents(payment)
    world.simulator.cancel_payment_intent("global", intent.stripe_payment_intent_id)
    answer = world.runtime.gateways["global"].retrieve_payment_intent(intent.stripe_payment_intent_id)
    assert answer.payment_intent is not None
    shown = replace(answer.payment_intent, cancellation_reason=reason)
    record_observation(world.runtime, intent.id, replace(answer, payment_intent=shown), "stripe")


def findings(world: World) -> list[str]:
    with world.engine.connect() as connection:
        return list(connection.scalars(text("SELECT kind FROM findings")))


@pytest.mark.parametrize("reason", ["automatic", "expired"])
def test_cancellation_by_stripe_wakes_no_payment_that_waits_for_a_card(world: World, reason: str) -> None:
    payment = declined_with(world, "expired_card")
    before = world.payment(payment)
    canceled_at_stripe(world, payment, reason)
    assert world.payment(payment) == before
    assert world.intents(payment)[0].closed_reason == "canceled"
    world.enqueued.extend(world.due_jobs())
    world.do_enqueued()
    assert len(world.attempts(payment)) == 1, "its card declined for good"


def test_cancellation_by_stripe_brings_no_retry_forward(world: World) -> None:
    payment = declined_with(world, "insufficient_funds")
    before = world.payment(payment)
    canceled_at_stripe(world, payment, "expired")
    assert world.payment(payment) == before
    assert before.state == "retry_scheduled"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("requested_by_customer", "canceled_by_a_person"),
        ("abandoned", "canceled_by_a_person"),
        (None, "canceled_for_unknown_reason"),
        ("invented_next_year", "canceled_for_unknown_reason"),
    ],
)
@pytest.mark.parametrize("code", ["insufficient_funds", "expired_card"])
def test_other_cancellation_holds_the_payment_with_a_finding(
    world: World, code: str, reason: str | None, kind: str
) -> None:
    payment = declined_with(world, code)
    before = world.payment(payment)
    canceled_at_stripe(world, payment, reason)
    row = world.payment(payment)
    assert row.held_until.year == 9999
    assert findings(world) == [kind]
    assert row.state == ("due" if code == "insufficient_funds" else "needs_payment_method")
    assert row.waiting_for_revision_after == before.waiting_for_revision_after
