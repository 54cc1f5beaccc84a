"""The table of test cards: number, name, brand, the issuer's answers (docs.stripe.com/testing).

`pm_card_<name>` and `tok_<name>` stand for the number. A test compares the table with shared/domain/declines.json.
"""

from dataclasses import dataclass
from enum import Enum
from hashlib import sha256

from simulator.store.ids import base62


class Issuer(Enum):
    """How the issuer of a card answers."""

    PAYS = "pays"
    DECLINES = "declines, also when it is attached or set up"
    DECLINES_CHARGES = "attaches, then declines every charge"
    AUTHENTICATES_ALWAYS = "asks for authentication at every payment"
    AUTHENTICATES_UNLESS_SET_UP = "asks for authentication off session unless it was set up for that"
    AUTHENTICATES_THEN_DECLINES = "asks for authentication at every payment, and declines after it"
    BLOCKED = "the processor's risk rules block every charge before the issuer sees it"
    DISPUTED = "pays; the charge is disputed later"


@dataclass(frozen=True)
class TestCard:
    number: str
    name: str
    brand: str
    issuer: Issuer = Issuer.PAYS
    decline: str | None = None
    country: str = "US"


_ROWS = (
    TestCard("4242424242424242", "visa", "visa"),
    TestCard("4000056655665556", "visa_debit", "visa"),
    TestCard("5555555555554444", "mastercard", "mastercard"),
    TestCard("5200828282828210", "mastercard_debit", "mastercard"),
    TestCard("5105105105105100", "mastercard_prepaid", "mastercard"),
    TestCard("378282246310005", "amex", "amex"),
    TestCard("6011111111111117", "discover", "discover"),
    TestCard("3056930009020004", "diners", "diners"),
    TestCard("3566002020360505", "jcb", "jcb", country="JP"),
    TestCard("6200000000000005", "unionpay", "unionpay", country="CN"),
    TestCard("4000003920000003", "jp", "visa", country="JP"),
    TestCard("4000000000000002", "visa_chargeDeclined", "visa", Issuer.DECLINES, "generic_decline"),
    TestCard(
        "4000000000009995",
        "visa_chargeDeclinedInsufficientFunds",
        "visa",
        Issuer.DECLINES,
        "insufficient_funds",
    ),
    TestCard("4000000000009987", "visa_chargeDeclinedLostCard", "visa", Issuer.DECLINES, "lost_card"),
    TestCard("4000000000009979", "visa_chargeDeclinedStolenCard", "visa", Issuer.DECLINES, "stolen_card"),
    TestCard(
        "4000000000006975",
        "visa_chargeDeclinedVelocityLimitExceeded",
        "visa",
        Issuer.DECLINES,
        "card_velocity_exceeded",
    ),
    TestCard("4000000000000069", "chargeDeclinedExpiredCard", "visa", Issuer.DECLINES, "expired_card"),
    TestCard("4000000000000127", "chargeDeclinedIncorrectCvc", "visa", Issuer.DECLINES, "incorrect_cvc"),
    TestCard("4000000000000119", "chargeDeclinedProcessingError", "visa", Issuer.DECLINES, "processing_error"),
    TestCard("4000000000000341", "chargeCustomerFail", "visa", Issuer.DECLINES_CHARGES, "generic_decline"),
    TestCard(
        "4000002500003155",
        "authenticationRequiredOnSetup",
        "visa",
        Issuer.AUTHENTICATES_UNLESS_SET_UP,
        country="DE",
    ),
    TestCard("4000002760003184", "authenticationRequired", "visa", Issuer.AUTHENTICATES_ALWAYS, country="DE"),
    # 3-D Secure: docs.stripe.com/payments/3d-secure, "Test 3DS authentication"
    TestCard("4000000000003220", "threeDSecure2Required", "visa", Issuer.AUTHENTICATES_ALWAYS),
    TestCard("4000000000003063", "threeDSecureRequired", "visa", Issuer.AUTHENTICATES_ALWAYS),
    TestCard(
        "4000008400001629",
        "threeDSecureRequiredChargeDeclined",
        "visa",
        Issuer.AUTHENTICATES_THEN_DECLINES,
        "generic_decline",
    ),
    TestCard("4000000000003055", "threeDSecureOptional", "visa"),
    TestCard("4000000000000259", "createDispute", "visa", Issuer.DISPUTED),
    TestCard("4100000000000019", "radarBlock", "visa", Issuer.BLOCKED, "fraudulent"),
)

BY_NAME = {card.name: card for card in _ROWS}
BY_NUMBER = {card.number: card for card in _ROWS}

#: Stripe's other names of the same cards.
_ALIASES = {
    **{name.removeprefix("visa_"): name for name in BY_NAME if name.startswith("visa_chargeDeclined")},
    "amex_threeDSecureNotSupported": "amex",
}

BRANDS = frozenset({"visa", "mastercard", "amex", "discover", "diners", "jcb", "unionpay"})

#: The default expiry of a `pm_card_*`: far enough in the future for every virtual year of a test.
EXP_MONTH, EXP_YEAR = 12, 2034


def by_token(token: str) -> TestCard | None:
    """Find the card of `pm_card_visa` or `tok_visa`."""
    for prefix in ("pm_card_", "tok_"):
        if token.startswith(prefix):
            name = token.removeprefix(prefix)
            return BY_NAME.get(_ALIASES.get(name, name))
    return None


def fingerprint_of(account: str, number: str) -> str:
    """Equal for the same number within an account, and unrelated across accounts."""
    digest = sha256(f"fingerprint:{account}:{number}".encode()).digest()
    return base62(int.from_bytes(digest[:12], "big"), 8)


def passes_luhn(number: str) -> bool:
    """The check digit that every card number ends in (ISO/IEC 7812-1)."""
    if not number.isdecimal() or not 12 <= len(number) <= 19:
        return False
    digits = [int(digit) for digit in reversed(number)]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
