"""Each check fails when its fault is planted, and names the row; on consistent records all hold."""

from dataclasses import dataclass, field
from datetime import date, timedelta

import pytest
from sqlalchemy import text

from shared.reconciliation.verify import Report, Result
from tests.verify.records import Records, all_names, make_records, names_broken
from tests.world import World

NOW = "CAST(:now AS timestamptz)"
A_SECOND_INTENT = """
    INSERT INTO payment_intents (payment_id, ordinal, coverage, amount_minor, currency, stripe_customer_id,
                                 api_version, closed_reason, closed_at)
    SELECT payment_id, ordinal + {step}, coverage, amount_minor, currency, stripe_customer_id, api_version,
           {closed}, CASE WHEN {closed} IS NULL THEN NULL ELSE now() END
    FROM payment_intents WHERE payment_id = :{of}
"""
A_SECOND_ATTEMPT = """
    INSERT INTO payment_attempts (payment_id, number, kind, state, payment_intent_id, coverage, trigger, lane,
                                  card_revision, started_at, lease_expires_at, finished_at)
    SELECT payment_id, number + 1, kind, '{state}', payment_intent_id, coverage, trigger, lane, card_revision,
           started_at, lease_expires_at, {finished}
    FROM payment_attempts WHERE payment_id = :{of} AND number = 1
"""
A_RECEIPT = """
    INSERT INTO receipts (payment_id, coverage, stripe_charge_id, amount_minor, currency, received_at)
    VALUES (:{of}, 'global', '{charge}', 100, 'USD', CAST(:now AS timestamptz))
"""
LONG_AGO = "'2026-01-01T00:00:00Z'"
#: The row's billing event was written a moment ago by the machine's clock; that of a forgotten row was not.
SILENCE = f"UPDATE billing_events SET created_at = {LONG_AGO}"


def charge_twice(records: Records) -> None:
    """A second PaymentIntent for a paid payment, confirmed without our code."""
    gateway = records.world.runtime.gateways["global"]
    with records.world.engine.connect() as connection:
        sent = connection.execute(
            text("SELECT create_parameters FROM payment_intents WHERE payment_id = :paid"), {"paid": records.paid}
        ).scalar_one()
        card = connection.execute(
            text("SELECT stripe_payment_method_id FROM payment_attempts WHERE payment_id = :paid"),
            {"paid": records.paid},
        ).scalar_one()
    created = gateway.create_payment_intent(sent, "another-key").payment_intent
    assert created is not None
    assert gateway.confirm_payment_intent(created.stripe_id, card, "yet-another-key").outcome == "succeeded"


@dataclass(frozen=True)
class Fault:
    """A planted fault and every check that must then fail; `says` is part of the first break's text."""

    check: str
    plant: tuple[str, ...]
    says: str
    also: frozenset[str] = field(default=frozenset())


def fault(check: str, *plant: str, says: str, also: tuple[str, ...] = ()) -> Fault:
    return Fault(check, plant, says, frozenset(also))


FAULTS = (
    fault(
        "one-invoice-per-month",
        "DROP INDEX uq_invoices_monthly",
        """INSERT INTO invoices (account_id, coverage, period, number, number_year, number_sequence, currency,
                                 total_minor, issued_on, due_on)
           SELECT account_id, coverage, period, 'G-DOUBLE', number_year, 7, currency, 0, issued_on, due_on
           FROM invoices WHERE id = (SELECT invoice_id FROM payments WHERE id = :paid)""",
        says="has 2 invoices for 2026-10-01",
        also=("gapless-numbers", "payment-beside-invoice"),
    ),
    fault(
        "gapless-numbers",
        "UPDATE invoices SET number_sequence = 9 WHERE number_sequence = 6",
        says="6 invoices numbered 1 to 9, the counter stands at 6",
    ),
    fault(
        "total-is-its-lines",
        "UPDATE invoice_lines SET amount_minor = amount_minor + 1, fee_id = NULL, service_id = gen_random_uuid() "
        "WHERE invoice_id = (SELECT invoice_id FROM payments WHERE id = :paid)",
        says="says USD 29.85, its lines say USD 29.86",
        also=("fee-on-one-invoice",),
    ),
    fault(
        "fee-on-one-invoice",
        "UPDATE fees SET invoice_id = NULL WHERE invoice_id = (SELECT invoice_id FROM payments WHERE id = :paid)",
        says="it has 1 lines, of USD 29.85",
    ),
    fault(
        "line-of-a-known-fee",
        "DELETE FROM fees WHERE invoice_id = (SELECT invoice_id FROM payments WHERE id = :paid)",
        says="which doesn't exist",
    ),
    fault(
        "payment-beside-invoice",
        "UPDATE payments SET amount_minor = 3000 WHERE id = :without_card",
        says="of USD 7.77 has payment",
    ),
    fault(
        "invoice-beside-payment",
        "UPDATE payments SET invoice_id = gen_random_uuid() WHERE id = :without_card",
        says="which doesn't exist",
        also=("payment-beside-invoice",),
    ),
    fault(
        "carried-forward-once",
        "UPDATE fees SET amount_minor = 21 WHERE carried_from_payment_id = :carried",
        says="of USD 0.20 was carried forward as 1 fees, of USD 0.21",
    ),
    fault(
        "carried-from-a-payment",
        "INSERT INTO fees (account_id, coverage, external_id, period, description, amount_minor, currency, "
        "carried_from_payment_id) SELECT account_id, coverage, 'x', period, 'x', 1, currency, gen_random_uuid() "
        "FROM fees LIMIT 1",
        says="which doesn't exist",
    ),
    fault(
        "paid-means-money",
        "DELETE FROM receipts WHERE payment_id = :paid",
        says="of USD 29.85 is paid with 0 receipts",
        also=("charge-has-receipt", "sums-agree"),
    ),
    fault(
        "money-means-paid",
        A_RECEIPT.format(of="declined", charge="ch_nobody"),
        says="is retry_scheduled, and USD 1.00 was received for it",
        also=("receipt-has-charge", "sums-agree"),
    ),
    fault(
        "one-success-per-payment",
        A_SECOND_INTENT.format(of="paid", step=1, closed="'succeeded'"),
        says="of USD 29.85: 1 attempts and 2 PaymentIntents succeeded",
        also=("successor-after-the-end",),
    ),
    fault(
        "one-live-payment-intent",
        "DROP INDEX uq_payment_intents_live",
        A_SECOND_INTENT.format(of="declined", step=1, closed="NULL"),
        says="has 2 live PaymentIntents of 2",
        also=("successor-after-the-end",),
    ),
    fault(
        "successor-after-the-end",
        "UPDATE payment_intents SET amount_minor = 1 WHERE payment_id = :declined",
        says="is none and has a successor, or another amount",
    ),
    fault(
        "one-open-attempt",
        "DROP INDEX uq_payment_attempts_open",
        "UPDATE payment_attempts SET state = 'unknown', finished_at = NULL WHERE payment_id = :declined",
        A_SECOND_ATTEMPT.format(of="declined", state="unknown", finished="NULL"),
        says="has 2 open attempts",
        also=("attempts-agree", "events-of-attempts"),
    ),
    fault(
        "success-means-paid",
        "UPDATE payment_attempts SET state = 'succeeded' WHERE payment_id = :declined",
        says="of USD 12.00 is retry_scheduled, although its card was charged",
        also=("events-of-attempts",),
    ),
    fault(
        "ended-means-nothing-open",
        "UPDATE payments SET state = 'void', next_attempt_at = NULL WHERE id = :declined",
        says="is void, with an attempt or a PaymentIntent still open",
        also=("events-of-payments", "void-with-its-invoice"),
    ),
    fault(
        "void-with-its-invoice",
        f"UPDATE invoices SET voided_at = {NOW} WHERE id = (SELECT invoice_id FROM payments WHERE id = :declined)",
        says="is retry_scheduled; its invoice ",
    ),
    fault(
        "no-ending-forgotten",
        "UPDATE payments SET pending_close_as = 'uncollectible' WHERE id = :declined",
        SILENCE,
        says="is retry_scheduled and is to be uncollectible; its PaymentIntent wasn't canceled",
    ),
    fault(
        "no-bulk-action-stuck",
        "INSERT INTO bulk_actions (action, filter, parameters, reason, requested_by, requested_at, state, digest, "
        f"sums, expected, counts, created_at) VALUES ('void', '{{}}', '{{}}', 'why', 'operator:anna', {NOW}, "
        f"""'running', '', '{{}}', 7, '{{"waiting": 5}}', {LONG_AGO})""",
        says="(void, operator:anna) is running since 2026-01-01 00:00:00 UTC, 5 still wait",
    ),
    fault(
        "attempts-agree",
        "UPDATE payments SET attempt_count = 5, decline_count = 3 WHERE id = :declined",
        says="counts 5 attempts and 3 declines; there are 1 and 1",
    ),
    fault(
        "no-attempt-forgotten",
        "UPDATE payment_attempts SET state = 'unknown', finished_at = NULL, look_ups = 4, "
        f"lease_expires_at = {LONG_AGO} WHERE payment_id = :declined",
        says="is unknown; its lease ended 2026-01-01 00:00:00 UTC, looked up 4 times",
        also=("attempts-agree", "events-of-attempts"),
    ),
    fault(
        "no-payment-forgotten",
        f"UPDATE payments SET next_attempt_at = {LONG_AGO} WHERE id = :declined",
        SILENCE,
        says="is retry_scheduled since 2026-01-01 00:00:00 UTC on the batch queue",
    ),
    fault(
        "no-wake-up-lost",
        "UPDATE payment_settings SET card_revision = 7, primary_card_id = gen_random_uuid() "
        "WHERE id = (SELECT settings_id FROM payments WHERE id = :without_card)",
        SILENCE,
        says="is needs_payment_method since card revision 0; revision 7 exists",
    ),
    fault(
        "waiting-names-its-reason",
        "UPDATE payments SET state_reason = NULL WHERE id = :without_card",
        says="is needs_payment_method without a reason",
    ),
    fault(
        "no-run-stuck",
        f"UPDATE runs SET state = 'running', created_at = {LONG_AGO}",
        SILENCE,
        says="run monthly-invoices 2026-10 global is running since 2026-01-01",
    ),
    fault(
        "no-stripe-event-stuck",
        "INSERT INTO stripe_events (coverage, stripe_event_id, type, is_livemode, stripe_created_at, state, "
        "try_again_at, trouble) VALUES ('global', 'evt_1', 'payment_intent.succeeded', false, "
        f"{NOW}, 'trouble', '9999-12-31', 'no key')",
        says="global event evt_1 (payment_intent.succeeded)",
    ),
    fault(
        "events-of-payments",
        "UPDATE payments SET state = 'needs_support', next_attempt_at = NULL WHERE id = :declined",
        says="is needs_support; its billing events end at retry_scheduled",
    ),
    fault(
        "events-have-no-gap",
        "DELETE FROM billing_events WHERE payment_id = :paid AND type = 'payment_moved'",
        "INSERT INTO billing_events (at, type, actor, payment_id, before, after) "
        f"""VALUES ({NOW}, 'payment_moved', 'x', :paid, '{{"state": "void"}}', '{{"state": "paid"}}')""",
        says="from void; its events were at due",
    ),
    fault(
        "events-of-attempts",
        "DELETE FROM billing_events"
        " WHERE payment_id = :declined AND type IN ('attempt_started', 'attempt_answered')",
        says="is declined; its events start it 0 times, end started",
    ),
    fault(
        "events-of-invoices",
        "INSERT INTO billing_events (at, type, actor, payment_id, after) "
        f"""VALUES ({NOW}, 'invoice_issued', 'x', :transfer, '{{"state": "awaiting_transfer"}}')""",
        says="has 2 events of being issued",
    ),
    fault(
        "events-of-standings",
        "UPDATE accounts SET standing = 'marked_for_suspension' WHERE external_id = 'paid'",
        says="account paid is marked_for_suspension; its billing events say good",
    ),
    fault(
        "charge-has-receipt",
        "DELETE FROM receipts WHERE payment_id = :paid",
        says="of USD 29.85",
        also=("paid-means-money", "sums-agree"),
    ),
    fault(
        "receipt-has-charge",
        A_RECEIPT.format(of="zero", charge="ch_nobody"),
        says="receipt of USD 1.00 for charge ch_nobody, unknown to the processor",
        also=("paid-means-money", "sums-agree"),
    ),
    fault(
        "charge-as-booked",
        "UPDATE receipts SET payment_id = :transfer WHERE payment_id = :paid",
        says="has a receipt of 2985 minor units of USD for payment",
        also=("paid-means-money", "money-means-paid"),
    ),
    fault(
        "sums-agree",
        "UPDATE receipts SET amount_minor = 2984 WHERE payment_id = :paid",
        says="the processor has USD 29.85, our records USD 29.84, difference USD 0.01",
        also=("charge-as-booked", "paid-means-money"),
    ),
)


CHARGED_TWICE = fault(
    "charged-once", says="was charged 2 times, USD 59.70 in total: ch_", also=("charge-has-receipt", "sums-agree")
)


def result_of(report: Report, name: str) -> Result:
    (found,) = (result for result in report.results if result.check.name == name)
    return found


def test_consistent_records_are_clean_in_every_scope(records: Records) -> None:
    report = records.run()
    assert names_broken(report) == []
    assert {result.check.name for result in report.results} == all_names()
    assert [(one.currency, one.theirs_minor, one.ours_minor) for one in report.sums] == [("USD", 29_85, 29_85)]
    assert records.run(coverage="global").is_clean
    day = date(2026, 11, 1)
    assert records.run(coverage="global", from_on=day, to_on=day).is_clean


@pytest.mark.parametrize("planted", FAULTS, ids=lambda planted: planted.check)
def test_planted_fault_breaks_only_its_checks(records: Records, planted: Fault) -> None:
    records.plant(*planted.plant)
    _assert_found(records, planted)


def test_second_charge_at_the_processor_is_found(world: World) -> None:
    records = make_records(world)
    charge_twice(records)
    _assert_found(records, CHARGED_TWICE)


def _assert_found(records: Records, planted: Fault) -> None:
    report = records.run()
    assert set(names_broken(report)) == {planted.check, *planted.also}
    first = result_of(report, planted.check).breaks[0]
    assert planted.says in first.what
    assert "{" not in first.what + first.do
    assert first.ids
    assert first.do


def test_every_check_has_a_planted_fault() -> None:
    assert {planted.check for planted in (*FAULTS, CHARGED_TWICE)} == all_names()


def test_paid_payment_with_a_pending_close_is_found(records: Records) -> None:
    records.plant("UPDATE payments SET pending_close_as = 'void' WHERE id = :paid")
    assert names_broken(records.run()) == ["no-ending-forgotten"]


def test_written_off_payment_with_a_live_payment_intent_is_found(records: Records) -> None:
    records.plant("UPDATE payments SET state = 'uncollectible', next_attempt_at = NULL WHERE id = :declined")
    assert set(names_broken(records.run())) == {"ended-means-nothing-open", "events-of-payments"}


def test_scope_excludes_rows_outside_it(records: Records) -> None:
    records.plant("UPDATE payments SET state_reason = NULL WHERE id = :without_card")
    assert names_broken(records.run()) == ["waiting-names-its-reason"]
    assert records.run(coverage="japan").is_clean
    assert records.run(from_on=date(2026, 12, 1)).is_clean
    assert records.run(to_on=date(2026, 10, 31)).is_clean


def test_payment_due_for_less_than_the_patience_is_not_forgotten(world: World) -> None:
    records = make_records(world)
    world.clock.set(world.clock.now() + timedelta(days=1, minutes=59))
    assert records.run().is_clean
    world.clock.set(world.clock.now() + timedelta(minutes=2))
    assert records.run().is_clean, "its billing event was written a moment ago, so the machine has had no time"
    world.machine.advance(minutes=61)
    assert names_broken(records.run()) == ["no-payment-forgotten"]


def test_charge_being_recorded_is_not_a_break(world: World) -> None:
    records = make_records(world)
    world.clock.set(world.clock.now() + timedelta(days=1))
    world.add_primary_card(records.accounts["declined"])
    confirm = world.runtime.gateways["global"].confirm_payment_intent
    snapshot: list[Report] = []

    def confirm_and_audit(*arguments: str) -> object:
        answer = confirm(*arguments)
        snapshot.append(records.run())
        return answer

    world.runtime.gateways["global"].confirm_payment_intent = confirm_and_audit
    world.charge(records.declined)
    assert world.captured_amounts(records.declined) == [12_00]
    assert [names_broken(report) for report in snapshot] == [[]]
    assert records.run().is_clean


def test_unanswered_processor_leaves_checks_undone(records: Records) -> None:
    records.world.runtime.gateways.pop("japan")
    report = records.run()
    assert not report.is_clean
    assert "no key for japan" in (result_of(report, "charged-once").not_checked or "")
    assert records.run(processor=False).is_clean


def test_all_breaks_are_counted_and_the_first_are_listed(records: Records) -> None:
    records.plant("UPDATE invoices SET total_minor = total_minor + 1")
    report = records.run(keep=2)
    result = result_of(report, "total-is-its-lines")
    assert (result.broken, len(result.breaks)) == (6, 2)
