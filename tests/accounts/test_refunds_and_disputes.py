"""Refunds in Stripe's dashboard and disputes at the cardholder's bank are seen, told and never charged over."""

from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row, select, text

from shared.db.session import in_transaction
from shared.db.tables.system import billing_events, findings
from shared.gateway.port import DisputeSnapshot
from shared.payments.refunds_and_disputes import record_dispute
from tests.accounts.conftest import CardWorld
from tests.reconciliation.records import UNBOOK, Night
from tests.seed import Account


@pytest.fixture
def anna(here: CardWorld) -> Account:
    account = here.world.account("A-1")
    here.world.add_primary_card(account)
    return account


def paid(here: CardWorld, account: Account) -> tuple[UUID, str]:
    """A paid payment, and its charge."""
    owed = here.world.add_due_payment(account)
    here.world.charge(owed)
    here.live()
    charge = here.world.attempts(owed)[-1].stripe_charge_id
    assert charge is not None
    return owed, charge


def found(here: CardWorld, *, is_open: bool = True) -> list[Row[Any]]:
    query = select(findings).order_by(findings.c.created_at)
    with here.world.engine.connect() as connection:
        return [row for row in connection.execute(query) if (row.resolved_at is None) is is_open]


def told(here: CardWorld, payment: UUID, what: str) -> list[Row[Any]]:
    query = select(billing_events).where(billing_events.c.payment_id == payment, billing_events.c.type == what)
    with here.world.engine.connect() as connection:
        return list(connection.execute(query.order_by(billing_events.c.id)))


def test_refund_in_the_dashboard_is_a_billing_event_and_a_finding(here: CardWorld, anna: Account) -> None:
    owed, charge = paid(here, anna)
    here.world.simulator.refund_charge("global", charge, 2_00)
    here.live()
    (event,) = told(here, owed, "charge_refunded")
    assert (event.actor, event.reason) == ("stripe", "USD 2.00 of USD 5.00 refunded at Stripe")
    (finding,) = found(here)
    assert (finding.kind, finding.payment_id, finding.subject) == ("charge_refunded", owed, charge)
    assert finding.details["refunded_minor"] == 2_00
    assert here.world.payment(owed).state == "paid"
    assert here.world.captured_amounts(owed) == [5_00], "what was captured stays in the ledger"


def test_second_part_of_a_refund_opens_the_resolved_finding_again(here: CardWorld, anna: Account) -> None:
    owed, charge = paid(here, anna)
    here.world.simulator.refund_charge("global", charge, 2_00)
    here.live()
    with here.world.engine.begin() as connection:
        connection.execute(
            text("UPDATE findings SET resolved_at = now(), resolved_by = 'operator:otto', resolution = 'credited'")
        )
    here.world.simulator.refund_charge("global", charge)
    here.live()
    (finding,) = found(here)
    assert finding.details["refunded_minor"] == 5_00
    assert [event.after["refunded_minor"] for event in told(here, owed, "charge_refunded")] == [2_00, 5_00]


def test_refund_of_a_foreign_charge_is_only_noted(here: CardWorld, anna: Account) -> None:
    charge = Night(here.world, anna, "").create_unknown_charge(None, customer=None)
    here.live()
    here.world.simulator.refund_charge("global", charge)
    (job,) = [job for job in here.arrived() if here.event(job).type == "charge.refunded"]
    assert here.apply(job) == "not ours: no payment has this charge"
    assert found(here) == []


def test_dispute_is_a_billing_event_and_a_finding_that_names_its_deadline(here: CardWorld, anna: Account) -> None:
    owed, charge = paid(here, anna)
    dispute = here.world.simulator.dispute_charge("global", charge)
    here.live()
    events = told(here, owed, "charge_disputed")
    assert [event.reason for event in events] == [
        "USD 5.00 disputed by the cardholder (fraudulent): needs_response"
    ], "the withdrawal of the funds shows the same dispute"
    (finding,) = found(here)
    assert (finding.kind, finding.subject, finding.payment_id) == ("charge_disputed", dispute, owed)
    assert finding.details["withdrawn_minor"] == 5_00
    assert datetime.fromisoformat(finding.details["evidence_due_at"]) > here.world.clock.now()
    assert here.world.payment(owed).state == "paid"


def test_dispute_that_is_won_resolves_its_finding(here: CardWorld, anna: Account) -> None:
    owed, charge = paid(here, anna)
    dispute = here.world.simulator.dispute_charge("global", charge)
    here.live()
    here.world.simulator.close_dispute("global", dispute, is_won=True)
    here.live()
    assert found(here) == []
    (finding,) = found(here, is_open=False)
    assert (finding.resolved_by, finding.details["withdrawn_minor"]) == ("stripe", 0)
    statuses = [event.after["status"] for event in told(here, owed, "charge_disputed")]
    assert statuses == ["needs_response", "won"]


def test_dispute_that_is_lost_leaves_its_finding_open(here: CardWorld, anna: Account) -> None:
    _, charge = paid(here, anna)
    dispute = here.world.simulator.dispute_charge("global", charge)
    here.world.simulator.close_dispute("global", dispute, is_won=False)
    here.live()
    (finding,) = found(here)
    assert (finding.details["status"], finding.details["withdrawn_minor"]) == ("lost", 5_00)


def test_inquiry_that_ends_resolves_its_finding(here: CardWorld, anna: Account) -> None:
    _, charge = paid(here, anna)
    dispute = here.world.simulator.dispute_charge("global", charge, is_inquiry=True)
    here.live()
    assert [finding.details["status"] for finding in found(here)] == ["warning_needs_response"]
    here.world.simulator.close_dispute("global", dispute, is_won=True)
    here.live()
    assert found(here) == []


def test_disputed_payment_that_is_open_in_our_records_is_not_charged_again(here: CardWorld, anna: Account) -> None:
    """Its success was lost; without the hold the daily retry would charge a cardholder who disputes."""
    world = here.world
    owed, charge = paid(here, anna)
    Night(world, anna, "").plant(*UNBOOK, payment=owed)
    Night(world, anna, "").plant("UPDATE payment_intents SET closed_reason = 'canceled', closed_at = now()")
    world.simulator.dispute_charge("global", charge)
    here.live()
    payment = world.payment(owed)
    assert payment.held_until is not None
    assert payment.held_until.year == 9999
    assert payment.state_reason == "its charge is disputed (fraudulent): an operator decides"
    assert [event.actor for event in told(here, owed, "payment_held")] == ["stripe"]
    assert payment.next_attempt_at is not None
    world.clock.set(payment.next_attempt_at)
    world.charge(owed)
    assert world.captured_amounts(owed) == [5_00]


def test_status_retrieved_before_the_decision_and_applied_after_it_changes_nothing(
    here: CardWorld, anna: Account
) -> None:
    _, charge = paid(here, anna)
    dispute = here.world.simulator.dispute_charge("global", charge)
    earlier: DisputeSnapshot = here.world.runtime.gateways["global"].retrieve_dispute(dispute)
    here.world.simulator.close_dispute("global", dispute, is_won=True)
    here.live()
    note, _ = in_transaction(
        here.world.engine,
        lambda connection: record_dispute(connection, "global", earlier, "stripe", here.world.clock.now()),
    )
    assert note == "already known: the dispute is won"
    assert found(here) == []


def test_hold_that_expires_without_a_capture_is_no_refund(here: CardWorld, anna: Account) -> None:
    """Stripe reports the release of a hold as charge.refunded, too."""
    world = here.world
    night = Night(world, anna, "")
    owed = world.add_due_payment(anna)
    intent = night.create_unknown_intent(owed, capture_method="manual")
    world.runtime.gateways["global"].confirm_payment_intent(intent.stripe_id, _card(here, anna), "hold")
    night.plant(
        """INSERT INTO payment_intents (id, payment_id, ordinal, coverage, amount_minor, currency, api_version,
               stripe_customer_id, stripe_payment_intent_id, create_parameters)
           VALUES (gen_random_uuid(), :payment, 1, 'global', 500, 'USD', '1', 'cus', :intent, '{}')""",
        payment=owed,
        intent=intent.stripe_id,
    )
    world.simulator.cancel_payment_intent("global", intent.stripe_id)
    (job,) = [job for job in here.arrived() if here.event(job).type == "charge.refunded"]
    assert here.apply(job) == "no money was given back: a hold was released"
    assert found(here) == []


def _card(here: CardWorld, account: Account) -> str:
    card = here.primary(account)
    assert card is not None
    return card
