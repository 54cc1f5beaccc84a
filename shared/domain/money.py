"""Money is an integer of minor units and an ISO 4217 currency (I9); decimals are converted only here."""

from dataclasses import dataclass
from decimal import Decimal

#: Minor-unit digits of the supported currencies (ISO 4217). Any other currency is rejected, because guessing its
#: exponent would be wrong by a factor of a hundred.
EXPONENTS: dict[str, int] = {
    **dict.fromkeys(
        ("AED", "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "ILS", "INR", "MXN"), 2
    ),
    **dict.fromkeys(("MYR", "NOK", "NZD", "PHP", "PLN", "RON", "SEK", "SGD", "THB", "TRY", "TWD", "USD", "ZAR"), 2),
    **dict.fromkeys(("CLP", "JPY", "KRW", "VND"), 0),
    **dict.fromkeys(("BHD", "JOD", "KWD", "OMR", "TND"), 3),
}

#: The largest amount a PostgreSQL bigint column holds.
MAX_AMOUNT_MINOR = 2**63 - 1
#: The largest amount that Stripe charges, in minor units of any currency: eight digits
#: (docs.stripe.com/api/payment_intents/create, `amount`).
MAX_CHARGE_MINOR = 99_999_999
#: Digits before the decimal point of any amount that could fit.
MAX_DIGITS = 19


class MoneyError(ValueError):
    """An invalid amount or currency; the message says why."""


@dataclass(frozen=True, order=True)
class Money:
    """An amount in minor units (cents, yen) of one currency."""

    amount_minor: int
    currency: str

    def __post_init__(self) -> None:
        exponent(self.currency)

    def __add__(self, other: "Money") -> "Money":
        if other.currency != self.currency:
            raise MoneyError(f"{self.currency} and {other.currency} can't be added")
        return Money(self.amount_minor + other.amount_minor, self.currency)

    def __str__(self) -> str:
        return format_minor(self.amount_minor, self.currency)


def exponent(currency: str) -> int:
    """Return the number of minor-unit digits of `currency`; MoneyError if it isn't supported."""
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise MoneyError(f"{currency!r} is not a supported currency") from None


def parse_minor(text: str, currency: str) -> int:
    """Parse a decimal like `29.85` as minor units, exactly.

    Raises MoneyError for anything but a plain non-negative decimal, for fractions of a minor unit (any decimals at
    all for JPY), and for amounts that don't fit into 64 bits.
    """
    digits = exponent(currency)
    cleaned = text.strip()
    if not cleaned.replace(".", "", 1).isdecimal() or not cleaned.isascii():
        if cleaned.startswith("-"):
            raise MoneyError("is negative; credit is not a fee")
        raise MoneyError("is not a plain decimal number like 29.85")
    whole, _, part = cleaned.partition(".")
    if len(whole.lstrip("0")) > MAX_DIGITS:
        raise MoneyError("is larger than the largest supported amount")
    # Cut before decimals round: their context keeps 28 digits, and a fraction must not disappear in it.
    scaled = Decimal(f"{whole.lstrip('0') or '0'}.{part[:digits] or '0'}").scaleb(digits)
    if scaled > MAX_AMOUNT_MINOR:
        raise MoneyError("is larger than the largest supported amount")
    if part[digits:].strip("0"):
        unit = "has no minor unit" if digits == 0 else f"has {digits} decimals"
        raise MoneyError(f"is a fraction of a minor unit: {currency} {unit}")
    return int(scaled)


def format_minor(amount_minor: int, currency: str) -> str:
    """Format minor units for users: `USD 1,234.50`, `JPY 1,234`."""
    digits = exponent(currency)
    sign = "-" if amount_minor < 0 else ""
    whole, part = divmod(abs(amount_minor), 10**digits)
    return f"{currency} {sign}{whole:,}" + (f".{part:0{digits}d}" if digits else "")
