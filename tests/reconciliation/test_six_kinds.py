"""Each kind of difference: found once, fixed or canceled where possible, and shown where not."""

from uuid import uuid4

from shared.explain.explanation import explain_payment
from shared.reconciliation.verify import Scope, verify
from shared.reconciliation.verify.attempts import ATTEMPTS
from shared.reconciliation.verify.processor import PROCESSOR
from tests.reconciliation.records import UNBOOK, Night


def test_consistent_day_has_no_findings(night: Night) -> None:
    for amount in (5_00, 7_50, 9_99):
        night.charged_payment(amount)
    counts = night.reconcile()
    assert counts["charges"] == counts["agrees"] == 3
    assert counts["found"] == {}
    assert night.findings() == night.findings(resolved=True) == []


def test_charge_missing_in_our_records_is_booked(night: Night) -> None:
    payment = night.charged_payment()
    (charge,) = night.receipts(payment)
    night.plant(*UNBOOK, payment=payment)
    assert night.world.payment(payment).state == "retry_scheduled"
    counts = night.reconcile()
    assert night.world.payment(payment).state == "paid"
    assert night.receipts(payment) == [charge]
    assert night.world.captured_amounts(payment) == [5_00]
    assert counts["mended"] == 1
    assert counts["found"] == {}
    assert night.findings() == []
    (fixed,) = night.findings(resolved=True)
    assert (fixed.kind, fixed.subject, fixed.resolved_by) == ("paid_there_open_here", charge, "reconciliation")
    types = [kind for kind, _ in night.world.billing_events(payment)]
    assert types[-3:] == ["attempt_answered", "payment_moved", "finding_resolved"]


def test_charge_of_a_lost_payment_intent_row_is_booked(night: Night) -> None:
    """A restore lost the row of the PaymentIntent; the processor's metadata names the payment."""
    payment = night.world.add_due_payment(night.account, 5_00)
    charge = night.create_unknown_charge(payment)
    counts = night.reconcile()
    assert night.world.payment(payment).state == "paid"
    assert night.receipts(payment) == [charge]
    assert counts["mended"] == 1
    assert night.findings() == []
    night.world.charge(payment)
    assert night.world.captured_amounts(payment) == [5_00]


def test_different_amount_is_found(night: Night) -> None:
    asked_less, booked_more = night.charged_payment(5_00), night.charged_payment(6_00)
    night.plant("UPDATE payments SET amount_minor = 499 WHERE id = :payment", payment=asked_less)
    night.plant("UPDATE receipts SET amount_minor = 601 WHERE payment_id = :payment", payment=booked_more)
    counts = night.reconcile()
    assert counts["found"] == {"amount_differs": 2}
    details = {finding.payment_id: finding.details for finding in night.findings()}
    assert details[asked_less]["received_minor"] == 5_00
    assert details[booked_more] == {
        "charge_id": night.receipts(booked_more)[0],
        "received_minor": 6_00,
        "currency": "USD",
        "booked_minor": 6_01,
        "booked_currency": "USD",
    }


def test_different_currency_is_found(night: Night) -> None:
    payment = night.charged_payment()
    night.plant("UPDATE payments SET currency = 'EUR' WHERE id = :payment", payment=payment)
    assert night.reconcile()["found"] == {"amount_differs": 1}


def test_charge_without_a_payment_is_found_and_foreign_charge_is_counted(night: Night) -> None:
    unknown = uuid4()
    of_unknown_payment = night.create_unknown_charge(unknown)
    on_our_customer = night.create_unknown_charge(None)
    night.create_unknown_charge(None, customer=None)
    counts = night.reconcile()
    assert counts["found"] == {"charge_without_payment": 2}
    assert counts["foreign"] == 1
    subjects = {finding.subject: finding.details for finding in night.findings()}
    assert subjects.keys() == {of_unknown_payment, on_our_customer}
    assert subjects[of_unknown_payment]["payment_id_there"] == str(unknown)


def test_paid_payment_without_a_charge_is_found(night: Night) -> None:
    by_receipt, by_state = night.charged_payment(), night.world.add_due_payment(night.account, 7_00)
    night.plant(
        "UPDATE receipts SET stripe_charge_id = 'ch_nobody' WHERE payment_id = :payment", payment=by_receipt
    )
    night.plant(
        "UPDATE payments SET state = 'paid', paid_at = :now, next_attempt_at = NULL WHERE id = :payment",
        payment=by_state,
        now=night.world.clock.now(),
    )
    counts = night.reconcile()
    assert {finding.subject for finding in night.findings() if finding.kind == "paid_without_charge"} == {
        "ch_nobody",
        str(by_state),
    }
    assert counts["found"]["paid_without_charge"] == 2


def test_missing_receipt_is_restored(night: Night) -> None:
    payment = night.charged_payment()
    (charge,) = night.receipts(payment)
    night.plant("DELETE FROM receipts WHERE payment_id = :payment", payment=payment)
    assert night.reconcile()["mended"] == 1
    assert night.receipts(payment) == [charge]
    assert night.findings() == []


def test_second_charge_of_a_payment_is_booked_and_found(night: Night) -> None:
    payment = night.charged_payment()
    second = night.create_unknown_charge(payment, ordinal=2)
    counts = night.reconcile()
    assert counts["found"] == {"paid_more_than_once": 1}
    (finding,) = night.findings()
    assert (finding.kind, finding.subject, finding.payment_id) == ("paid_more_than_once", second, payment)
    assert len(night.receipts(payment)) == 2
    assert night.reconcile(night.next_night())["found"] == {"paid_more_than_once": 1}
    assert len(night.findings()) == 1


def test_two_charges_of_an_open_payment_pay_it_once_with_one_finding(night: Night) -> None:
    payment = night.world.add_due_payment(night.account, 5_00)
    charges = {night.create_unknown_charge(payment), night.create_unknown_charge(payment, ordinal=2)}
    counts = night.reconcile()
    assert night.world.payment(payment).state == "paid"
    assert set(night.receipts(payment)) == charges
    assert (counts["mended"], counts["found"]) == (1, {"paid_more_than_once": 1})
    (finding,) = night.findings()
    assert finding.subject == night.receipts(payment)[1]


def test_orphan_is_canceled_and_its_ordinal_is_used_up(night: Night) -> None:
    payment = night.world.add_due_payment(night.account, 5_00)
    orphan = night.create_unknown_intent(payment)
    counts = night.reconcile()
    assert night.processor_status(orphan.stripe_id) == "canceled"
    assert counts["orphans_canceled"] == 1
    assert counts["found"] == {}
    (resolved,) = night.findings(resolved=True)
    assert (resolved.kind, resolved.subject) == ("orphan_payment_intent", orphan.stripe_id)
    (row,) = night.world.intents(payment)
    assert (row.ordinal, row.stripe_payment_intent_id, row.closed_reason) == (1, orphan.stripe_id, "canceled")
    night.world.charge(payment)
    assert night.world.payment(payment).state == "paid"
    assert night.world.captured_amounts(payment) == [5_00]


def test_orphan_of_a_paid_payment_is_canceled(night: Night) -> None:
    payment = night.charged_payment()
    orphan = night.create_unknown_intent(payment, ordinal=1)
    assert night.reconcile()["orphans_canceled"] == 1
    assert night.processor_status(orphan.stripe_id) == "canceled"
    assert [row.closed_reason for row in night.world.intents(payment)] == ["succeeded"]


def test_payment_intent_of_an_unanswered_create_is_skipped_until_its_claim_gives_up(night: Night) -> None:
    """Within 23 hours the next claim repeats the create and gets this PaymentIntent."""
    payment = night.world.add_due_payment(night.account, 5_00)
    lost = night.lose_create(payment)
    assert night.reconcile()["payment_intents_left_to_their_claim"] == 1
    assert night.processor_status(lost) == "requires_payment_method"
    night.world.machine.advance(hours=23, minutes=1)
    assert night.reconcile(night.next_night())["orphans_canceled"] == 1
    assert night.processor_status(lost) == "canceled"
    night.world.charge(payment)
    assert [(row.ordinal, row.closed_reason) for row in night.world.intents(payment)] == [
        (1, "canceled"),
        (2, "succeeded"),
    ]
    assert night.world.captured_amounts(payment) == [5_00]


def test_payment_intent_of_an_unanswered_create_is_reused_by_its_claim(night: Night) -> None:
    payment = night.world.add_due_payment(night.account, 5_00)
    lost = night.lose_create(payment)
    night.reconcile()
    night.world.machine.advance(minutes=10)
    night.world.charge(payment)
    assert [row.stripe_payment_intent_id for row in night.world.intents(payment)] == [lost]
    assert night.world.captured_amounts(payment) == [5_00]


def test_payment_intents_of_unknown_payments_are_counted_and_skipped(night: Night) -> None:
    theirs, strangers = night.create_unknown_intent(uuid4()), night.create_unknown_intent(None)
    counts = night.reconcile()
    assert counts["payment_intents_of_unknown_payments"] == 1
    assert counts["payment_intents_of_others"] == 1
    for snapshot in (theirs, strangers):
        assert night.processor_status(snapshot.stripe_id) == "requires_payment_method"
    assert night.findings() == []


def test_open_payment_with_an_unbookable_charge_is_held(night: Night) -> None:
    """A charge names our payment and no PaymentIntent: nothing can be looked up, so an operator decides."""
    payment = night.world.add_due_payment(night.account, 5_00)
    charge = night.create_unknown_charge(payment)
    night.hide_intents_of_charges()
    counts = night.reconcile()
    assert counts["found"] == {"paid_there_open_here": 1}
    (finding,) = night.findings()
    assert (finding.subject, finding.payment_id) == (charge, payment)
    assert night.world.payment(payment).held_until is not None
    night.world.charge(payment)
    assert night.world.captured_amounts(payment) == [5_00], "not charged again"


def test_verify_is_clean_after_fixes_and_cancellations(night: Night) -> None:
    unbooked, lost, waiting = (
        night.charged_payment(),
        night.world.add_due_payment(night.account, 6_00),
        night.world.add_due_payment(night.account, 7_00),
    )
    night.plant(*UNBOOK, payment=unbooked)
    night.create_unknown_charge(lost, 6_00)
    night.create_unknown_intent(waiting, 7_00)
    counts = night.reconcile()
    assert (counts["mended"], counts["orphans_canceled"]) == (2, 1)
    night.world.charge(waiting)
    world = night.world
    report = verify(
        world.engine,
        Scope(now=world.clock.now(), machine_now=world.machine()),
        gateways=world.runtime.gateways,
        coverages=world.policy.coverages,
        checks=(*ATTEMPTS, *PROCESSOR),
    )
    breaks = [f"{result.check.name}: {one.what}" for result in report.results for one in result.breaks]
    assert breaks == []
    assert report.is_clean
    assert report.open_findings == 0


def test_fixed_payment_is_explained(night: Night) -> None:
    payment = night.world.add_due_payment(night.account)
    night.create_unknown_charge(payment)
    night.reconcile()
    world = night.world
    with world.engine.connect() as connection:
        told = explain_payment(connection, world.policy, payment, world.clock.now(), world.machine())
    assert told.state == "paid"
    assert told.findings == ()
