"""Accounts: one row is one account in one coverage."""

from datetime import date

from sqlalchemy import select

from shared.db.tables.accounts import accounts, payment_settings
from tests.importing.desk import BILLING_FILE, Desk
from tests.seed import Account, add_card

HEADER = "account,coverage,payment_method,name,email,stripe_customer\n"
ANNA = HEADER + "A-1,global,card,Anna,anna@example.com,cus_1\nA-1,japan,bank_transfer,Anna,anna@example.com,\n"


def test_account_in_two_coverages_has_two_payment_settings(desk: Desk) -> None:
    assert desk.accounts(ANNA).code == 0
    in_dollars, in_yen = desk.settings("A-1", "global"), desk.settings("A-1", "japan")
    assert in_dollars.account_id == in_yen.account_id
    assert (in_dollars.kind, in_dollars.stripe_customer_id) == ("card", "cus_1")
    assert (in_yen.kind, in_yen.stripe_customer_id) == ("bank_transfer", None)


def test_the_same_accounts_twice_change_nothing(desk: Desk) -> None:
    desk.accounts(ANNA)
    before = desk.everything()
    told = desk.accounts(ANNA)
    assert (told.code, "unchanged 2" in told.text) == (0, True)
    assert desk.everything() == before


def test_a_name_defaults_to_the_id_and_a_later_file_without_names_leaves_it(desk: Desk) -> None:
    bare = "account,coverage,payment_method\nA-1,global,card\n"
    desk.accounts(bare)
    assert desk.settings("A-1").name == "A-1"
    desk.accounts(ANNA)
    desk.accounts(bare)
    row = desk.settings("A-1")
    assert (row.name, row.email, row.stripe_customer_id) == ("Anna", "anna@example.com", "cus_1")


def test_a_changed_payment_method_writes_its_own_event(desk: Desk) -> None:
    desk.accounts(ANNA)
    desk.accounts(ANNA.replace("global,card", "global,bank_transfer"))
    events = [event for event in desk.events() if event[0] == "payment_settings_changed"]
    assert events == [
        (
            "payment_settings_changed",
            {"kind": "card", "stripe_customer_id": "cus_1"},
            {"kind": "bank_transfer", "stripe_customer_id": "cus_1"},
            {"coverage": "global"},
        )
    ]
    assert desk.settings("A-1").kind == "bank_transfer"


def test_billing_details_hold_what_the_invoice_shows_beside_the_name(desk: Desk) -> None:
    desk.accounts(
        "account,coverage,payment_method,billing_name,address,country,tax_id,language\n"
        'A-1,global,card,Anna Ltd,"1 High Street\nLondon",gb,GB1,en\n'
    )
    row = desk.settings("A-1")
    expected = {"name": "Anna Ltd", "address": "1 High Street\nLondon", "country": "GB", "tax_id": "GB1"}
    assert (row.billing_details, row.language) == (expected, "en")
    desk.accounts("account,coverage,payment_method,tax_id\nA-1,global,card,\n")
    assert desk.settings("A-1").billing_details == {key: expected[key] for key in ("name", "address", "country")}


def test_a_stripe_customer_may_change_until_cards_are_registered_with_it(desk: Desk) -> None:
    desk.accounts(ANNA)
    assert desk.accounts(ANNA.replace("cus_1", "cus_2")).code == 0
    with desk.engine.begin() as connection:
        row = connection.execute(
            select(payment_settings.c.id, payment_settings.c.account_id)
            .join(accounts, accounts.c.id == payment_settings.c.account_id)
            .where(payment_settings.c.coverage == "global")
        ).one()
        add_card(connection, Account(row.account_id, row.id, "A-1", "global"))
    told = desk.accounts(ANNA.replace("cus_1", "cus_3"))
    assert told.problems == [
        "line 2, stripe_customer: 'cus_3' is another Stripe customer than cus_2, with which cards are registered"
    ]
    assert desk.settings("A-1").stripe_customer_id == "cus_2"
    assert desk.accounts(ANNA.replace("cus_1", "")).code == 0  # an empty cell takes nothing away
    assert desk.settings("A-1").stripe_customer_id == "cus_2"


def test_two_accounts_cannot_share_a_stripe_customer(desk: Desk) -> None:
    desk.accounts(ANNA)
    told = desk.accounts(HEADER + "B-1,global,card,B,,cus_1\nC-1,global,card,C,,cus_9\nD-1,global,card,D,,cus_9\n")
    assert told.problems == [
        "line 2, stripe_customer: 'cus_1' is the Stripe customer of account A-1 already",
        "line 4, stripe_customer: 'cus_9' is the Stripe customer of the account on line 3 already",
    ]


def test_all_bad_cells_of_accounts_are_reported(desk: Desk) -> None:
    told = desk.accounts(
        "account,coverage,payment_method,name,email,country,language\n"
        "A-1,global,card,Anna,a@example.com,JP,ja\n"
        "A-1,japan,card,Anne,b@example.com,JP,ja\n"
        "A-1,global,card,Anna,a@example.com,JP,ja\n"
        "A-2,europe,Credit card,B,nobody,Japan,日本語\n"
    )
    assert told.problems == [
        "line 3, name: 'Anne' is another name than on line 2 for the same account; an account has one",
        "line 3, email: 'b@example.com' is another e-mail than on line 2 for the same account; an account has one",
        "line 4, account: 'A-1' is a duplicate: line 2 has this account in coverage global already",
        (
            "line 5, coverage: 'europe' is not a coverage of billing.toml: global, japan. Say which one it "
            "means, for "
            'example --value coverage:"europe"=global'
        ),
        (
            "line 5, payment_method: 'Credit card' is not a payment method: card, bank_transfer, trial. Say "
            "which one it "
            'means, for example --value payment_method:"Credit card"=card'
        ),
        "line 5, email: 'nobody' is not an e-mail address like billing@example.com",
        "line 5, language: '日本語' is not a language code like en or ja",
        "line 5, country: 'Japan' is not a two-letter country code like JP (ISO 3166)",
    ]


def test_coverage_defaults_to_the_only_one_of_the_policy(desk: Desk) -> None:
    rules = BILLING_FILE.read_text().split("[coverages.")[0]
    billing = desk.write(
        rules
        + '[coverages.only]\ncurrency = "EUR"\ntime_zone = "UTC"\ninvoice_prefix = "E"\nminimum_charge = "0.50"\n',
        "billing.toml",
    )
    desk.environ["DUECOURSE_BILLING_FILE"] = str(billing)
    assert desk.accounts("account,payment_method\nA-1,trial\n").code == 0
    assert desk.settings("A-1", "only").kind == "trial"
    assert desk.fees("account,amount\nA-1,1\n").code == 0
    assert desk.fee_rows()["2026-10:A-1"] == ("A-1", 100, "Charges", None, date(2026, 10, 1))
