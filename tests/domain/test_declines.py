"""What declines mean: precedence, every known code, and what follows."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.declines import Decline, DeclineCategory, category_of_code, classify
from shared.domain.dunning import (
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


def decide(
    decline: Decline, declines: int = 1, kind: PaymentKind = PaymentKind.MONTHLY, now: datetime = NOW
) -> object:
    return decide_after_decline(decline, kind, declines, POLICY, now, now.date())


def card(decline_code: str | None, **codes: str | None) -> Decline:
    return Decline(code="card_declined", decline_code=decline_code, **codes)


@pytest.mark.parametrize(("code", "category"), sorted(category_of_code().items()))
def test_each_known_code_is_placed_as_the_table_says(code: str, category: DeclineCategory) -> None:
    assert classify(card(code)).category is category
    assert classify(Decline(code=code)).category is category, "some codes come without a decline_code"


def test_no_code_is_listed_twice() -> None:
    from shared.domain.declines import facts

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
def test_precedence(decline: Decline, category: DeclineCategory) -> None:
    assert classify(decline).category is category


@pytest.mark.parametrize(
    ("decline", "follows"),
    [
        (card("insufficient_funds"), RetryOn(date(2026, 11, 2), "decline code insufficient_funds")),
        (card("generic_decline"), RetryOn(date(2026, 11, 4), "decline code generic_decline")),
        (Decline(code="processing_error"), RetryOn(date(2026, 11, 2), "code processing_error")),
    ],
)
def test_soft_declines_are_asked_again_on_a_day(decline: Decline, follows: object) -> None:
    assert decide(decline) == follows


def test_hard_declines_wait_for_the_customer() -> None:
    assert isinstance(decide(Decline(code="expired_card")), AwaitPaymentMethod)
    assert decide(card("stolen_card")) == AwaitPaymentMethod(
        "decline code stolen_card: this card must never be asked again", is_never=True
    )
    assert isinstance(decide(Decline(code="authentication_required")), AwaitAuthentication)
    assert isinstance(decide(card("duplicate_transaction")), HoldForOperator)


def test_a_code_never_seen_is_retried_sparingly_and_shown_to_an_operator() -> None:
    follows = decide(card("brand_new_code"))
    assert isinstance(follows, RetryOn)
    assert follows.needs_attention
    assert follows.day == date(2026, 11, 4)


def test_orders_are_never_retried_and_monthly_fees_not_for_ever() -> None:
    assert isinstance(decide(card("insufficient_funds"), kind=PaymentKind.ORDER), StopRetrying)
    assert isinstance(decide(card("insufficient_funds"), declines=29), RetryOn)
    assert isinstance(decide(card("insufficient_funds"), declines=30), StopRetrying)


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
def test_mastercard_waits_are_kept(advice: str, now: datetime, day: date) -> None:
    follows = decide(card("insufficient_funds", network="mastercard", network_advice_code=advice), now=now)
    assert isinstance(follows, RetryOn)
    assert follows.day == day


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
def test_whatever_comes_something_follows_and_never_is_never_softened(decline: Decline, declines: int) -> None:
    follows = decide(decline, declines)
    if isinstance(follows, RetryOn):
        assert follows.day > TODAY
    if decline.advice_code == "do_not_try_again":
        assert isinstance(follows, AwaitPaymentMethod)
        assert follows.is_never


def test_the_networks_budgets_are_kept_to_the_attempt() -> None:
    asked = [NOW - timedelta(days=29, hours=hour) for hour in range(20)]
    assert check_network_budget("visa", asked[:19], NOW) is None
    over = check_network_budget("visa", asked, NOW)
    assert over is not None
    assert over.free_at == min(asked) + timedelta(days=30)
    assert check_network_budget("visa", asked, over.free_at) is None
    assert check_network_budget("mastercard", asked, NOW) is None


def test_mastercard_allows_ten_in_a_day() -> None:
    asked = [NOW - timedelta(hours=hour) for hour in range(10)]
    over = check_network_budget("mastercard", asked, NOW)
    assert over is not None
    assert over.free_at == NOW - timedelta(hours=9) + timedelta(days=1)
    assert "10" in over.reason


def test_a_network_without_a_known_rule_gets_the_conservative_one() -> None:
    asked = [NOW - timedelta(days=1)] * 15
    assert check_network_budget("jcb", asked, NOW) is not None
    assert check_network_budget(None, asked, NOW) is not None
    assert check_network_budget("jcb", asked[:14], NOW) is None


def test_the_daily_time_is_the_companys() -> None:
    late = DunningPolicy(retry_at=time(18, 0))
    decline = card("insufficient_funds", network="mastercard", network_advice_code="25")
    follows = decide_after_decline(decline, PaymentKind.MONTHLY, 1, late, NOW, TODAY)
    assert isinstance(follows, RetryOn)
    assert follows.day == date(2026, 11, 2), "24 hours are over before 18:00"
