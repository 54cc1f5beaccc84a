"""The smallest and largest amounts that Stripe charges, in minor units.

Source: docs.stripe.com/currencies#minimum-and-maximum-charge-amounts, as of November 2026. The minimum belongs to
the currency in which the account settles; for a charge in another currency Stripe converts it.
"""

from collections.abc import Mapping

#: By ISO 4217 currency. Stripe publishes none for the other currencies: they convert to the account's own.
MINIMUM_CHARGE_MINOR: Mapping[str, int] = {
    **dict.fromkeys(("AUD", "BRL", "CAD", "CHF", "EUR", "INR", "JPY", "NZD", "SGD", "USD"), 50),
    **dict.fromkeys(("AED", "MYR", "PLN", "RON"), 200),
    **dict.fromkeys(("NOK", "SEK"), 300),
    **dict.fromkeys(("MXN", "THB"), 1000),
    "CZK": 1500,
    "DKK": 250,
    "GBP": 30,
    "HKD": 400,
}

#: Eight digits, whatever the currency.
MAXIMUM_CHARGE_MINOR = 99_999_999


def minimum_charge_minor(currency: str) -> int:
    """Return Stripe's minimum for a charge in `currency`; 1 where it publishes none."""
    return MINIMUM_CHARGE_MINOR.get(currency, 1)
