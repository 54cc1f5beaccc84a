"""The table of declines: codes, advice and messages.

Sources: docs.stripe.com/declines/codes (codes, messages shown to customers), docs.stripe.com/declines/card (advice
codes), ISO 8583 response codes as Visa and Mastercard use them, shared/domain/declines.json (which codes come
without a decline_code).
"""

from dataclasses import dataclass

CONFIRM, NEVER, LATER = "confirm_card_data", "do_not_try_again", "try_again_later"

#: Mastercard's merchant advice codes that go with Stripe's advice (docs.stripe.com/declines/network-codes).
MASTERCARD_ADVICE = {CONFIRM: "01", LATER: "02", NEVER: "03"}


@dataclass(frozen=True)
class Wording:
    """How the processor reports a decline. `code` is the error code; some have no `decline_code`."""

    code: str
    decline_code: str | None
    message: str
    network_code: str | None
    advice: str | None
    seller_message: str


_NO_DETAILS = "The bank did not return any further details with this decline."
_DECLINED = "Your card was declined."
_NOT_SUPPORTED = "Your card does not support this type of purchase."

# decline_code: (network code, advice, message for the customer)
_ISSUER: dict[str, tuple[str | None, str | None, str]] = {
    "approve_with_id": ("08", LATER, _DECLINED),
    "call_issuer": ("01", LATER, _DECLINED),
    "card_not_supported": ("57", NEVER, _NOT_SUPPORTED),
    "card_velocity_exceeded": (
        "65",
        LATER,
        "Your card was declined for making repeated attempts too frequently or exceeding its amount limit.",
    ),
    "currency_not_supported": ("57", NEVER, "Your card is not supported for this currency."),
    "do_not_honor": ("05", LATER, _DECLINED),
    "do_not_try_again": ("R1", NEVER, _DECLINED),
    "duplicate_transaction": ("94", None, "A transaction with identical amount was submitted very recently."),
    "fraudulent": ("59", NEVER, _DECLINED),
    "generic_decline": ("01", LATER, _DECLINED),
    "highest_risk_level": (None, NEVER, _DECLINED),
    "incorrect_pin": ("55", CONFIRM, _DECLINED),
    "insufficient_funds": ("51", LATER, "Your card has insufficient funds."),
    "invalid_account": ("14", CONFIRM, _DECLINED),
    "invalid_amount": ("13", None, _DECLINED),
    "invalid_pin": ("55", CONFIRM, _DECLINED),
    "issuer_not_available": ("91", LATER, _DECLINED),
    "lost_card": ("41", NEVER, _DECLINED),
    "merchant_blacklist": (None, NEVER, _DECLINED),
    "mobile_device_authentication_required": (None, None, _DECLINED),
    "new_account_information_available": ("14", CONFIRM, _DECLINED),
    "no_action_taken": ("21", LATER, _DECLINED),
    "not_permitted": ("57", NEVER, _DECLINED),
    "offline_pin_required": ("55", None, _DECLINED),
    "online_or_offline_pin_required": ("70", None, _DECLINED),
    "pickup_card": ("04", NEVER, _DECLINED),
    "pin_try_exceeded": ("75", NEVER, _DECLINED),
    "reenter_transaction": ("19", LATER, _DECLINED),
    "restricted_card": ("62", NEVER, _DECLINED),
    "revocation_of_all_authorizations": ("R3", NEVER, _DECLINED),
    "revocation_of_authorization": ("R1", NEVER, _DECLINED),
    "security_violation": ("63", NEVER, _DECLINED),
    "service_not_allowed": ("58", NEVER, _DECLINED),
    "stolen_card": ("43", NEVER, _DECLINED),
    "stop_payment_order": ("R0", NEVER, _DECLINED),
    "test_mode_live_card": (
        None,
        None,
        "Your card was declined. The request was in test mode and the number is not one of the test numbers.",
    ),
    "testmode_decline": (None, None, "Your card was declined. It is a test card."),
    "transaction_not_allowed": ("57", NEVER, _NOT_SUPPORTED),
    "try_again_later": ("91", LATER, _DECLINED),
    "withdrawal_count_limit_exceeded": ("65", LATER, "Your card exceeded its balance or credit limit."),
}

# These are reported as the error's `code`, without a decline_code.
_BARE: dict[str, tuple[str | None, str | None, str]] = {
    "expired_card": ("54", CONFIRM, "Your card has expired."),
    "incorrect_address": (None, CONFIRM, "Your card's address is incorrect."),
    "incorrect_cvc": ("N7", CONFIRM, "Your card's security code is incorrect."),
    "incorrect_number": ("14", CONFIRM, "Your card number is incorrect."),
    "incorrect_zip": (None, CONFIRM, "Your card's postal code is incorrect."),
    "invalid_cvc": (None, CONFIRM, "Your card's security code is invalid."),
    "invalid_expiry_month": (None, CONFIRM, "Your card's expiration month is invalid."),
    "invalid_expiry_year": (None, CONFIRM, "Your card's expiration year is invalid."),
    "invalid_number": (None, CONFIRM, "Your card number is not a valid credit card number."),
    "processing_error": (
        "96",
        LATER,
        "An error occurred while processing your card. Try again in a little bit.",
    ),
}

# This one is reported as both (docs.stripe.com/declines/codes, docs.stripe.com/error-codes).
_BOTH: dict[str, tuple[str | None, str | None, str]] = {
    "authentication_required": ("1A", None, "Your card was declined. This transaction requires authentication."),
}

KNOWN_CODES = frozenset(_ISSUER) | frozenset(_BARE) | frozenset(_BOTH)


def wording_of(code: str) -> Wording:
    """Return how a decline with this code is reported. An unknown code is reported as it is, without advice."""
    for table, decline_code in ((_BARE, None), (_BOTH, code)):
        if code in table:
            network, advice, message = table[code]
            return Wording(code, decline_code, message, network, advice, _seller_message(code))
    network, advice, message = _ISSUER.get(code, (None, None, _DECLINED))
    return Wording("card_declined", code, message, network, advice, _seller_message(code))


def _seller_message(code: str) -> str:
    if code in ("generic_decline", "do_not_honor", "call_issuer", "no_action_taken"):
        return _NO_DETAILS
    return f"The bank returned the decline code `{code}`."
