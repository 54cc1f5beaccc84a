"""What declines.json says: the networks' codes with their sources, and the words for users."""

import re
from datetime import date, timedelta

import pytest

from shared.domain.declines import Decline, DeclineCategory, classify, explain, facts, network_fact, what_follows

VISA = {"network": "visa"}
MASTERCARD = {"network": "mastercard"}
BLOCKED_BY_CARDHOLDER = "the cardholder has blocked these payments at their bank, and has to lift the block there"


def card(decline_code: str | None, **codes: str | None) -> Decline:
    return Decline(code="card_declined", decline_code=decline_code, **codes)


@pytest.mark.parametrize(
    ("network", "code", "category", "wait_h", "block_days"),
    [
        ("visa", "57", DeclineCategory.NEVER_THIS_CARD, None, None),
        ("visa", "46", DeclineCategory.NEEDS_PAYMENT_METHOD, None, None),
        ("visa", "5C", None, None, None),
        ("visa", "9G", DeclineCategory.RETRY_SPARINGLY, None, None),
        ("visa", "83", None, None, None),
        ("mastercard", "01", DeclineCategory.NEEDS_PAYMENT_METHOD, None, None),
        ("mastercard", "02", DeclineCategory.RETRY_DAILY, 72, None),
        ("mastercard", "03", DeclineCategory.NEVER_THIS_CARD, None, 30),
        ("mastercard", "04", None, None, None),
        ("mastercard", "21", DeclineCategory.NEVER_THIS_CARD, None, 30),
        ("mastercard", "40", DeclineCategory.NEEDS_PAYMENT_METHOD, None, None),
        ("mastercard", "41", DeclineCategory.NEEDS_PAYMENT_METHOD, None, None),
        ("mastercard", "43", None, None, None),
    ],
)
def test_facts_of_the_networks_as_of_november_2026(
    network: str, code: str, category: DeclineCategory | None, wait_h: int | None, block_days: int | None
) -> None:
    name = "network_decline_code" if network == "visa" else "network_advice_code"
    decline = card("insufficient_funds", network=network, **{name: code})
    fact = network_fact(decline)
    assert fact is not None
    assert fact.category is category
    found = classify(decline)
    assert found.category is (category or DeclineCategory.RETRY_DAILY), "without one, the decline code decides"
    assert found.wait == (None if wait_h is None else timedelta(hours=wait_h))
    assert found.blocked_for == (None if block_days is None else timedelta(days=block_days))


def test_cardholder_who_blocked_us_is_named_as_the_one_to_lift_the_block() -> None:
    fact = network_fact(card("do_not_honor", network="visa", network_decline_code="9G"))
    assert fact is not None
    assert (
        fact.meaning == "the cardholder has blocked these payments at their bank, and has to lift the block there"
    )


def test_visa_categories_hold_each_code_once_and_category_1_is_never_retried() -> None:
    for code, row in facts()["visa_response_codes"]["codes"].items():
        found = classify(card("do_not_honor", network="visa", network_decline_code=code))
        is_retried = found.category in (
            DeclineCategory.RETRY_SOON,
            DeclineCategory.RETRY_DAILY,
            DeclineCategory.RETRY_SPARINGLY,
        )
        assert is_retried == (row["visa_category"] == 2), code


def test_each_fact_names_a_source_with_its_edition_and_day() -> None:
    known = facts()
    for name, source in known["sources"].items():
        assert source["title"], name
        assert source["edition"], name
        assert date.fromisoformat(source["as_of"]) >= date(2026, 11, 1), name
    named = [
        *known["categories"].values(),
        known["advice_codes"],
        *known["visa_response_codes"]["codes"].values(),
        *known["mastercard_advice"]["codes"].values(),
        *known["network_budgets"],
    ]
    assert {fact["source"] for fact in named} == set(known["sources"])


@pytest.mark.parametrize(
    ("decline", "headline", "follows"),
    [
        (
            Decline(code="expired_card", advice_code="confirm_card_data"),
            "the card has expired (expired_card, advice confirm_card_data)",
            "can't be charged until the customer updates or replaces the card",
        ),
        (
            card("generic_decline", advice_code="try_again_later", network_decline_code="01", **VISA),
            "the issuer declined and gave no reason (generic_decline, advice try_again_later)",
            "the same card may work another day",
        ),
        (
            card("do_not_honor", advice_code="try_again_later", network_decline_code="9G", **VISA),
            f"{BLOCKED_BY_CARDHOLDER} (do_not_honor, advice try_again_later, Visa 9G)",
            "few, spaced retries, and contact the customer",
        ),
        (
            card("insufficient_funds", network_advice_code="02", **MASTERCARD),
            "the card's funds are insufficient (insufficient_funds, Mastercard advice 02)",
            "the network asks to wait 72 hours",
        ),
        (
            card("do_not_honor", network_advice_code="03", **MASTERCARD),
            "the account is closed, or fraud is suspected (do_not_honor, Mastercard advice 03)",
            "this card must not be charged for 30 days, and then once if the customer registers it again",
        ),
        (
            card("brand_new_code"),
            "the issuer sent a code that isn't known (brand_new_code)",
            "few, spaced retries, and contact the customer; operators are alerted",
        ),
        (
            Decline(),
            "the card was declined without a code",
            "few, spaced retries, and contact the customer; operators are alerted",
        ),
    ],
)
def test_explanation_names_the_meaning_then_the_codes(decline: Decline, headline: str, follows: str) -> None:
    assert (explain(decline), what_follows(decline)) == (headline, follows)


def test_a_decline_without_a_reason_says_nothing_about_money() -> None:
    for code in ("generic_decline", "do_not_honor", "call_issuer", "no_action_taken", "try_again_later"):
        for advice in (None, "try_again_later", "confirm_card_data"):
            decline = card(code, advice_code=advice)
            told = f"{explain(decline)}: {what_follows(decline)}"
            assert "no reason" in told
            assert not re.search(r"funds|limit|money|balance", told)


def test_every_code_has_a_meaning_of_its_own_words() -> None:
    for group in facts()["categories"].values():
        assert group["meaning"]
        assert group["what_follows"]
        for code, meaning in group["codes"].items():
            assert len(meaning.split()) >= 3, code
            assert "_" not in meaning, code
