"""Decimals become minor units exactly, or are rejected."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.money import EXPONENTS, MAX_AMOUNT_MINOR, Money, MoneyError, exponent, format_minor, parse_minor


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("29.85", "USD", 29_85),
        ("29.8", "USD", 29_80),
        ("29.850", "USD", 29_85),
        (" 7 ", "USD", 7_00),
        (".5", "USD", 50),
        ("0", "JPY", 0),
        ("1200", "JPY", 1200),
        ("1200.00", "JPY", 1200),
        ("1.234", "KWD", 1234),
        ("000012.30", "USD", 12_30),
        ("92233720368547758.07", "USD", MAX_AMOUNT_MINOR),
    ],
)
def test_decimal_is_parsed_exactly(text: str, currency: str, minor: int) -> None:
    assert parse_minor(text, currency) == minor


@pytest.mark.parametrize(
    ("text", "currency", "why"),
    [
        ("-5.00", "USD", "negative"),
        ("1.005", "USD", "USD has 2 decimals"),
        ("10.50", "JPY", "JPY has no minor unit"),
        ("1.0000000000000000000000000000001", "USD", "fraction of a minor unit"),
        ("1,234.50", "USD", "plain decimal"),
        ("1e3", "USD", "plain decimal"),
        ("NaN", "USD", "plain decimal"),
        ("", "USD", "plain decimal"),
        (".", "USD", "plain decimal"),
        ("٣", "USD", "plain decimal"),
        ("92233720368547758.08", "USD", "larger than"),
        ("9" * 10_000, "JPY", "larger than"),
        ("5", "XXX", "not a supported currency"),
    ],
)
def test_invalid_amount_is_rejected_with_a_reason(text: str, currency: str, why: str) -> None:
    with pytest.raises(MoneyError, match=why):
        parse_minor(text, currency)


@given(st.integers(0, MAX_AMOUNT_MINOR), st.sampled_from(sorted(EXPONENTS)))
def test_formatted_amount_is_parsed_back(minor: int, currency: str) -> None:
    digits = exponent(currency)
    text = f"{minor // 10**digits}" + (f".{minor % 10**digits:0{digits}d}" if digits else "")
    assert parse_minor(text, currency) == minor
    assert Decimal(format_minor(minor, currency).removeprefix(f"{currency} ").replace(",", "")) == Decimal(text)


def test_different_currencies_cannot_be_added() -> None:
    assert Money(1, "USD") + Money(2, "USD") == Money(3, "USD")
    with pytest.raises(MoneyError, match="can't be added"):
        Money(1, "USD") + Money(2, "JPY")
