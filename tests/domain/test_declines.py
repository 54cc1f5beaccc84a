"""Decline codes: precedence, every known code, and the next step."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.declines import (
    Classified,
    Decline,
    DeclineCategory,
    category_of_code,
    classify,
    explain,
    facts,
    network_fact,
)
from shared.domain.dunning import (
    OPEN_ATTEMPTS_WAIT,
    AwaitAuthentication,
    AwaitPaymentMethod,
    DunningPolicy,
    HoldForOperator,
    RetryOn,
    StopRetrying,
    check_network_budget,
    decide_after_decline,
)
from shared.domain.states import PaymentKind

NOW = datetime(2026, 11, 1, 9, 0, tzinfo=UTC)
TODAY = NOW.date()
POLICY = DunningPolicy()
FUNDS = "the card's funds are insufficient (insufficient_funds)"


def decide(
    decline: Decline, declines: int = 1, kind: PaymentKind = PaymentKind.MONTHLY, now: datetime = NOW
) -> object:
    return decide_after_decline(decline, kind, declines, POLICY, now, now.date())


def card(decline_code: str | None, **codes: str | None) -> Decline:
    return Decline(code="card_declined", decline_code=decline_code, **codes)


@pytest.mark.parametrize(("code", "category"), sorted(category_of_code().items()))
def test_each_known_code_has_its_category(code: str, category: DeclineCategory) -> None:
    assert classify(card(code)).category is category
    assert classify(Decline(code=code)).category is category, "some codes come without a decline_code"


def test_codes_are_unique() -> None:
    codes = [code for group in facts()["categories"].values() for code in group["codes"]]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("decline", "category"),
    [
        (card("insufficient_funds", advice_code="do_not_try_again"), DeclineCategory.NEVER_THIS_CARD),
        (card("insufficient_funds", network="visa", network_decline_code="04"), DeclineCategory.NEVER_THIS_CARD),
        (card("insufficient_funds", network="amex", network_decline_code="04"), DeclineCategory.RETRY_DAILY),
        (
            card("insufficient_funds", network="mastercard", network_advice_code="03"),
            DeclineCategory.NEVER_THIS_CARD,
        ),
        (card("lost_card", advice_code="try_again_later"), DeclineCategory.NEVER_THIS_CARD),
        (card("generic_decline", advice_code="confirm_card_data"), DeclineCategory.NEEDS_PAYMENT_METHOD),
        (card("generic_decline", advice_code="try_again_later"), DeclineCategory.RETRY_DAILY),
        (card("never_heard_of_it"), DeclineCategory.RETRY_SPARINGLY),
        (Decline(), DeclineCategory.RETRY_SPARINGLY),
    ],
)
def test_categories_follow_the_precedence(decline: Decline, category: DeclineCategory) -> None:
    assert classify(decline).category is category


VISA = {"network": "visa"}
MASTERCARD = {"network": "mastercard"}


@pytest.mark.parametrize(
    ("decline", "category", "cause"),
    [
        # "Never" comes first, before codes that say "look at our request" and before every wait.
        (
            card("duplicate_transaction", advice_code="do_not_try_again"),
            DeclineCategory.NEVER_THIS_CARD,
            "advice code do_not_try_again",
        ),
        (
            card("generic_decline", advice_code="do_not_try_again", network_advice_code="24", **MASTERCARD),
            DeclineCategory.NEVER_THIS_CARD,
            "advice code do_not_try_again",
        ),
        (
            card("duplicate_transaction", network_decline_code="R0", **VISA),
            DeclineCategory.NEVER_THIS_CARD,
            "Visa category 1 code R0",
        ),
        (
            card("insufficient_funds", network_advice_code="21", **MASTERCARD),
            DeclineCategory.NEVER_THIS_CARD,
            "Mastercard advice 21",
        ),
        # One network's codes mean nothing on another's card.
        (
            card("insufficient_funds", network_decline_code="04", network_advice_code="03"),
            DeclineCategory.RETRY_DAILY,
            "decline code insufficient_funds",
        ),
        (
            card("insufficient_funds", network_advice_code="03", **VISA),
            DeclineCategory.RETRY_DAILY,
            "decline code insufficient_funds",
        ),
        (
            card("insufficient_funds", network_decline_code="04", **MASTERCARD),
            DeclineCategory.RETRY_DAILY,
            "decline code insufficient_funds",
        ),
        # A single-use card or a deactivated token is registered again, whatever Stripe's advice makes of it.
        (
            card("do_not_honor", advice_code="do_not_try_again", network_decline_code="46", **VISA),
            DeclineCategory.NEEDS_PAYMENT_METHOD,
            "Visa code 46",
        ),
        (
            card("generic_decline", advice_code="do_not_try_again", network_advice_code="41", **MASTERCARD),
            DeclineCategory.NEEDS_PAYMENT_METHOD,
            "Mastercard advice 41",
        ),
        (
            card("lost_card", network_decline_code="46", **VISA),
            DeclineCategory.NEVER_THIS_CARD,
            "decline code lost_card",
        ),
        # Stripe's rules or our own list refused this transaction: no issuer said anything about the card.
        (
            card("highest_risk_level", advice_code="do_not_try_again"),
            DeclineCategory.RETRY_SPARINGLY,
            "decline code highest_risk_level",
        ),
        (
            card("merchant_blacklist", advice_code="do_not_try_again"),
            DeclineCategory.OUR_FAULT,
            "decline code merchant_blacklist",
        ),
        # Then codes that no advice softens.
        (
            card("stolen_card", network_advice_code="24", **MASTERCARD),
            DeclineCategory.NEVER_THIS_CARD,
            "decline code stolen_card",
        ),
        (
            card("invalid_amount", advice_code="try_again_later"),
            DeclineCategory.OUR_FAULT,
            "decline code invalid_amount",
        ),
        # Then the network's wait, which goes before the issuer's advice and before softer codes.
        (
            card("do_not_honor", advice_code="confirm_card_data", network_advice_code="26", **MASTERCARD),
            DeclineCategory.RETRY_DAILY,
            "network advice 26",
        ),
        (
            card("do_not_honor", network_advice_code="26", **VISA),
            DeclineCategory.RETRY_SPARINGLY,
            "decline code do_not_honor",
        ),
        # Then advice, decline code, code, in this order; a word that nobody knows decides nothing.
        (
            card("do_not_honor", advice_code="try_again_later"),
            DeclineCategory.RETRY_DAILY,
            "advice code try_again_later",
        ),
        (
            card("do_not_honor", advice_code="brand_new_advice"),
            DeclineCategory.RETRY_SPARINGLY,
            "decline code do_not_honor",
        ),
        (
            Decline(code="expired_card", decline_code="insufficient_funds"),
            DeclineCategory.RETRY_DAILY,
            "decline code insufficient_funds",
        ),
        (
            Decline(code="expired_card", decline_code="brand_new_code"),
            DeclineCategory.NEEDS_PAYMENT_METHOD,
            "code expired_card",
        ),
        (Decline(code="incorrect_cvc"), DeclineCategory.NEEDS_PAYMENT_METHOD, "code incorrect_cvc"),
        (
            card("authentication_required"),
            DeclineCategory.NEEDS_AUTHENTICATION,
            "decline code authentication_required",
        ),
        (card("processing_error"), DeclineCategory.RETRY_SOON, "decline code processing_error"),
    ],
)
def test_first_matching_fact_decides_and_is_named(decline: Decline, category: DeclineCategory, cause: str) -> None:
    known = classify(decline)
    assert (known.category, known.cause, known.is_known) == (category, cause, True)


@pytest.mark.parametrize(
    ("decline", "named"),
    [
        (card("brand_new_code"), "brand_new_code"),
        (card(None), "card_declined"),
        (Decline(), "no code"),
    ],
)
def test_unknown_code_is_named_by_its_most_specific_code(decline: Decline, named: str) -> None:
    assert classify(decline) == Classified(
        DeclineCategory.RETRY_SPARINGLY, f"{named}: unknown code", None, is_known=False
    )


@pytest.mark.parametrize(
    ("advice", "hours"), [("24", 1), ("25", 24), ("26", 48), ("27", 96), ("28", 144), ("29", 192), ("30", 240)]
)
def test_mastercard_advice_sets_the_wait(advice: str, hours: int) -> None:
    decline = card("insufficient_funds", network_advice_code=advice, **MASTERCARD)
    assert classify(decline).wait == timedelta(hours=hours)
    assert classify(card("insufficient_funds", network_advice_code=advice, **VISA)).wait is None


@pytest.mark.parametrize(
    ("decline", "follows"),
    [
        (card("insufficient_funds"), RetryOn(date(2026, 11, 2), FUNDS)),
        (
            card("generic_decline"),
            RetryOn(date(2026, 11, 4), "the issuer declined and gave no reason (generic_decline)"),
        ),
        (
            Decline(code="processing_error"),
            RetryOn(date(2026, 11, 2), "an error occurred while the card was processed (processing_error)"),
        ),
    ],
)
def test_soft_declines_are_retried_on_a_date(decline: Decline, follows: object) -> None:
    assert decide(decline) == follows


def test_hard_declines_wait_for_the_customer_with_a_reason() -> None:
    assert decide(Decline(code="expired_card")) == AwaitPaymentMethod(
        "the card has expired (expired_card): can't be charged until the customer updates or replaces the card"
    )
    assert decide(card("stolen_card")) == AwaitPaymentMethod(
        "the card was reported stolen (stolen_card): this card must never be charged again", is_never=True
    )
    assert decide(Decline(code="authentication_required")) == AwaitAuthentication(
        "the bank requires the cardholder's authentication (authentication_required): the customer must confirm "
        "with their bank"
    )
    assert decide(card("duplicate_transaction")) == HoldForOperator(
        "a payment of the same amount was made very recently (duplicate_transaction): looks like an error in our "
        "request, not in the card"
    )


def test_unknown_code_is_retried_rarely_and_shown_to_an_operator() -> None:
    follows = decide(card("brand_new_code"))
    assert isinstance(follows, RetryOn)
    assert follows.needs_attention
    assert follows.day == date(2026, 11, 4)


def test_orders_are_never_retried_and_monthly_payments_have_a_limit() -> None:
    assert decide(card("insufficient_funds"), kind=PaymentKind.ORDER) == StopRetrying(
        f"{FUNDS}: orders are never retried automatically"
    )
    assert isinstance(decide(card("insufficient_funds"), declines=29), RetryOn)
    assert decide(card("insufficient_funds"), declines=30) == StopRetrying(f"{FUNDS}: declined 30 times")


def test_order_that_needs_a_card_or_the_customer_waits() -> None:
    assert isinstance(decide(Decline(code="expired_card"), kind=PaymentKind.ORDER), AwaitPaymentMethod)
    assert isinstance(decide(card("authentication_required"), kind=PaymentKind.ORDER), AwaitAuthentication)
    assert isinstance(decide(Decline(code="expired_card"), declines=30), AwaitPaymentMethod)


def test_retry_limit_comes_from_the_policy() -> None:
    rare = DunningPolicy(
        retry_every_days={
            DeclineCategory.RETRY_SOON: 2,
            DeclineCategory.RETRY_DAILY: 5,
            DeclineCategory.RETRY_SPARINGLY: 10,
        },
        stop_after_declines=3,
    )
    for code, days in (("processing_error", 2), ("insufficient_funds", 5), ("do_not_honor", 10)):
        follows = decide_after_decline(card(code), PaymentKind.MONTHLY, 2, rare, NOW, TODAY)
        assert follows == RetryOn(TODAY + timedelta(days=days), explain(card(code)))
    assert isinstance(decide_after_decline(card(code), PaymentKind.MONTHLY, 3, rare, NOW, TODAY), StopRetrying)


def test_retry_dates_cross_leap_days_and_year_ends() -> None:
    for now, day in (
        (datetime(2028, 2, 28, 9, tzinfo=UTC), date(2028, 2, 29)),
        (datetime(2028, 2, 29, 9, tzinfo=UTC), date(2028, 3, 1)),
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), date(2027, 1, 1)),
    ):
        assert decide(card("insufficient_funds"), now=now) == RetryOn(day, FUNDS)


@pytest.mark.parametrize(
    ("advice", "now", "day"),
    [
        ("24", NOW, date(2026, 11, 2)),  # an hour: tomorrow's run is the first
        ("25", NOW, date(2026, 11, 2)),  # 24 h, exactly at the daily run
        ("25", NOW + timedelta(minutes=1), date(2026, 11, 3)),
        ("26", NOW, date(2026, 11, 3)),
        ("30", NOW, date(2026, 11, 11)),
    ],
)
def test_mastercard_waits_are_respected(advice: str, now: datetime, day: date) -> None:
    follows = decide(card("insufficient_funds", network="mastercard", network_advice_code=advice), now=now)
    assert isinstance(follows, RetryOn)
    assert follows.day == day


@pytest.mark.parametrize(
    ("declined_at", "day"),
    [
        ("2026-03-28 08:00", date(2026, 3, 29)),
        ("2026-03-28 08:01", date(2026, 3, 30)),  # 09:00 of the 29th is only 23 hours and 59 minutes later
        ("2026-10-24 09:00", date(2026, 10, 25)),
        ("2026-10-24 10:00", date(2026, 10, 25)),  # the night of the 25th has an hour more
        ("2026-10-24 10:01", date(2026, 10, 26)),
    ],
)
def test_24_hour_wait_is_24_hours_across_clock_changes(declined_at: str, day: date) -> None:
    now = datetime.fromisoformat(declined_at).replace(tzinfo=ZoneInfo("Europe/Berlin"))
    follows = decide(card("insufficient_funds", network_advice_code="25", **MASTERCARD), now=now)
    assert follows == RetryOn(day, f"{FUNDS[:-1]}, Mastercard advice 25)")


@settings(deadline=None)  # a loaded machine is slow
@given(
    st.builds(
        Decline,
        code=st.none() | st.text(max_size=8) | st.sampled_from(sorted(category_of_code())),
        decline_code=st.none() | st.text(max_size=8) | st.sampled_from(sorted(category_of_code())),
        advice_code=st.none()
        | st.sampled_from(["confirm_card_data", "do_not_try_again", "try_again_later", "new"]),
        network_advice_code=st.none() | st.sampled_from(["01", "03", "21", "24", "30"]),
        network_decline_code=st.none() | st.sampled_from(["04", "51", "R0"]),
        network=st.none() | st.sampled_from(["visa", "mastercard", "amex"]),
    ),
    st.integers(1, 40),
)
def test_every_decline_has_a_next_step_and_never_stays_never(decline: Decline, declines: int) -> None:
    follows = decide(decline, declines)
    if isinstance(follows, RetryOn):
        assert follows.day > TODAY
    # Stripe's own rules and our list refuse one transaction, and a network may ask for the card anew (0025).
    network = network_fact(decline)
    asks_to_register = network is not None and network.category is DeclineCategory.NEEDS_PAYMENT_METHOD
    if decline.advice_code == "do_not_try_again" and decline.decline_code not in facts()["not_by_the_issuer"]:
        assert isinstance(follows, AwaitPaymentMethod)
        assert follows.is_never is not asks_to_register


def test_network_budgets_are_exact() -> None:
    declined = [NOW - timedelta(days=29, hours=hour) for hour in range(20)]
    assert check_network_budget("visa", declined[:19], NOW) is None
    over = check_network_budget("visa", declined, NOW)
    assert over is not None
    assert over.free_at == min(declined) + timedelta(days=30)
    assert check_network_budget("visa", declined, over.free_at) is None
    assert check_network_budget("mastercard", declined, NOW) is None


def test_budget_states_used_and_allowed_attempts() -> None:
    month = check_network_budget("visa", [NOW - timedelta(days=2)] * 21, NOW)
    assert month is not None
    assert month.reason == "visa: 21 declines in 30 days, the network allows 20"
    nobodys = check_network_budget(None, [NOW] * 15, NOW)
    assert nobodys is not None
    assert nobodys.reason == "card: 15 declines in 30 days, the network allows 15"


def test_attempt_leaves_the_window_exactly_at_its_end() -> None:
    declined = [NOW - timedelta(days=30)] + [NOW - timedelta(days=1)] * 19
    assert check_network_budget("visa", declined, NOW) is None
    assert check_network_budget("visa", declined, NOW - timedelta(microseconds=1)) is not None


def test_mastercard_monthly_budget_applies_below_the_daily_one() -> None:
    declined = [NOW - timedelta(hours=20 * count) for count in range(1, 36)]
    over = check_network_budget("mastercard", declined, NOW)
    assert over is not None
    assert over.reason == "mastercard: 35 declines in 30 days, the network allows 35"
    assert over.free_at == declined[-1] + timedelta(days=30)
    assert check_network_budget("mastercard", declined[:34], NOW) is None


def test_longer_lasting_budget_decides() -> None:
    busy_day = [NOW - timedelta(hours=1)] * 10
    old = [NOW - timedelta(days=29, hours=23, minutes=30)] * 25
    for before, free_at in (
        (old, NOW + timedelta(hours=23)),  # the month's budget is free in half an hour, the day's is not
        ([NOW - timedelta(days=20)] * 25, NOW + timedelta(days=10)),
    ):
        over = check_network_budget("mastercard", [*before, *busy_day], NOW)
        assert over is not None
        assert over.free_at == free_at


def test_mastercard_allows_ten_attempts_a_day() -> None:
    declined = [NOW - timedelta(hours=hour) for hour in range(10)]
    over = check_network_budget("mastercard", declined, NOW)
    assert over is not None
    assert over.free_at == NOW - timedelta(hours=9) + timedelta(days=1)
    assert "10" in over.reason


def test_open_attempts_use_the_budget_until_they_are_answered() -> None:
    declined = [NOW - timedelta(days=1)] * 18
    assert check_network_budget("visa", declined, NOW, open_attempts=1) is None
    over = check_network_budget("visa", declined, NOW, open_attempts=2)
    assert over is not None
    assert over.reason == "visa: 18 declines in 30 days and 2 attempts without an answer yet, the network allows 20"
    assert over.free_at == NOW + OPEN_ATTEMPTS_WAIT, "not the month that a used budget takes"


def test_unknown_network_gets_the_conservative_budget() -> None:
    declined = [NOW - timedelta(days=1)] * 15
    assert check_network_budget("jcb", declined, NOW) is not None
    assert check_network_budget(None, declined, NOW) is not None
    assert check_network_budget("jcb", declined[:14], NOW) is None


def test_daily_run_time_comes_from_the_policy() -> None:
    late = DunningPolicy(retry_at=time(18, 0))
    decline = card("insufficient_funds", network="mastercard", network_advice_code="25")
    follows = decide_after_decline(decline, PaymentKind.MONTHLY, 1, late, NOW, TODAY)
    assert isinstance(follows, RetryOn)
    assert follows.day == date(2026, 11, 2), "24 hours are over before 18:00"


def test_retry_after_advice_02_waits_72_hours() -> None:
    follows = decide(card("insufficient_funds", network_advice_code="02", **MASTERCARD))
    assert follows == RetryOn(TODAY + timedelta(days=3), f"{FUNDS[:-1]}, Mastercard advice 02)")
