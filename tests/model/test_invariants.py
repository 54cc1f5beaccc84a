"""The model can fail: each invariant detects its own break."""

import pytest

from tests.model.company import Company
from tests.model.invariants import INVARIANTS
from tests.model.machine import Model
from tests.model.snapshot import BrokenError

PAID = "(SELECT id FROM payments WHERE state = 'paid')"
RETRIED = "(SELECT id FROM payments WHERE state = 'retry_scheduled')"

#: By invariant: what is done to our rows behind our code's back, and what is said about it.
BREAKS = {
    "charged_what_is_owed": ("UPDATE payments SET amount_minor = amount_minor + 1", "captured 500 usd, owed"),
    "tried_once_a_day": (
        (
            "UPDATE payment_attempts SET created_at = created_at + interval '1 hour' WHERE state = 'succeeded';"
            "UPDATE payment_attempts SET decline_code = 'do_not_honor' WHERE state = 'declined';"
            f"UPDATE payments SET settings_id = (SELECT settings_id FROM payments WHERE id = {RETRIED})"
        ),
        "the card was declined on this day",
    ),
    "receipts_are_captured_money": ("UPDATE receipts SET amount_minor = amount_minor + 1", "booked"),
    "captured_money_is_booked": ("DELETE FROM receipts", "our records don't have it"),
    "one_open_attempt": ("UPDATE payment_attempts SET number = 7", "attempts have a gap"),
    "one_live_payment_intent": (
        f"UPDATE payment_intents SET closed_reason = 'canceled' WHERE payment_id = {PAID}",
        "is succeeded, and we hold it for canceled",
    ),
    "declined_only_by_the_issuer": (
        "UPDATE payment_attempts SET stripe_charge_id = NULL WHERE state = 'declined'",
        "declined attempts with the charges",
    ),
    "leases_are_respected": (
        (
            "INSERT INTO billing_events (at, type, actor, payment_id, attempt_id, before, after, data)"
            " SELECT now(),"
            " 'attempt_settled', 'settlement', payment_id, id, '{}', '{\"state\": \"not_sent\"}', '{}'"
            " FROM payment_attempts WHERE state = 'declined'"
        ),
        "settlement closed an attempt inside its lease",
    ),
    "states_move_by_the_table": (
        f"UPDATE payments SET state = 'due' WHERE id = {RETRIED}",
        "its billing events say retry_scheduled",
    ),
    "nothing_due_is_invisible": (
        f"UPDATE payments SET backoff_until = '2999-01-01' WHERE id = {RETRIED}",
        "no source finds it",
    ),
    "newest_card_is_charged": (
        (
            "INSERT INTO billing_events (at, type, actor, account_id, before, after, data) "
            " SELECT now(), 'card_registered',"
            " 'customer', account_id, '{}', '{\"card_revision\": 2}', '{\"coverage\": \"japan\"}'"
            f" FROM payments WHERE id = {RETRIED}"
        ),
        "of the card was charged last",
    ),
}


@pytest.fixture
def model(company: Company) -> Model:
    """One payment is paid, the other was declined and is to be tried again."""
    Model.company = company
    model = Model()
    model.company_opens(first=("pays", "declines softly"), amounts=(5_00, 29_85))
    model.message_is_done(0, times=1, with_all_others=True)
    model.everything_holds()
    return model


@pytest.mark.parametrize("name", sorted(BREAKS))
def test_invariant_detects_its_break(model: Model, name: str) -> None:
    statement, said = BREAKS[name]
    with model.company.look.transaction():
        model.company.look.execute("SET LOCAL session_replication_role = replica")
        model.company.look.execute(statement)

    with pytest.raises(BrokenError, match=said):
        model.everything_holds()


def test_second_charge_is_reported_with_the_billing_events_of_its_payment(model: Model) -> None:
    payment = next(one for one in model.snapshot.payments.values() if one.state == "paid")
    card = model.people[0].cards[-1].payment_method
    again = {
        "amount": 5_00,
        "currency": "usd",
        "customer": payment.stripe_customer_id,
        "payment_method": card,
        "confirm": "true",
        "off_session": "true",
        "metadata[duecourse_payment_id]": str(payment.id),
    }
    answer = model.company.ask("global", "POST", "/v1/payment_intents", data=again)
    assert answer.json()["status"] == "succeeded"

    with pytest.raises(BrokenError, match="charged 2 times") as broken:
        model.everything_holds()
    told = str(broken.value)
    assert "Timeline" in told
    assert told.count("\nledger ") == 2


def test_every_invariant_has_a_break() -> None:
    assert {holds.__name__ for holds in INVARIANTS} == {*BREAKS, "charged_at_most_once"}
