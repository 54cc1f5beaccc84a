"""The issuer's answers: pure functions of a card and a request.

`Approves`, `Declines` and `WantsAuthentication` are the only answers. A decline contains its complete wording, so
that the error, the charge's outcome and the PaymentIntent's last error can't differ.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any, assert_never

from simulator.issuer.cards import BY_NAME, Issuer
from simulator.issuer.declines import MASTERCARD_ADVICE, wording_of
from simulator.issuer.stories import (
    AlwaysDeclines,
    DeclinesThenPays,
    InsufficientFundsUntil,
    NeedsAuthentication,
    Pays,
    PaysUntil,
    Says,
    Story,
)


@dataclass(frozen=True)
class Approves:
    is_disputed: bool = False


@dataclass(frozen=True)
class WantsAuthentication:
    """The customer must authenticate. Off session this becomes a decline."""


@dataclass(frozen=True)
class Declines:
    code: str
    decline_code: str | None
    message: str
    advice_code: str | None = None
    network_advice_code: str | None = None
    network_decline_code: str | None = None
    seller_message: str = ""
    is_blocked: bool = False

    def error_fields(self) -> dict[str, Any]:
        """Fields of the error object and `last_payment_error`; nulls are omitted later."""
        return {
            "code": self.code,
            "decline_code": self.decline_code,
            "advice_code": self.advice_code,
            "network_advice_code": self.network_advice_code,
            "network_decline_code": self.network_decline_code,
        }


Verdict = Approves | Declines | WantsAuthentication


@dataclass(frozen=True)
class Ask:
    """One request to an issuer. `behaviour` names a test card; a `story` has precedence."""

    brand: str
    behaviour: str | None
    story: Story | None
    declined: int
    today: date
    is_off_session: bool
    is_set_up: bool
    is_authenticated: bool = False


def charge_verdict(ask: Ask) -> Verdict:
    """Return the issuer's answer to a charge."""
    verdict = _story_verdict(ask.story, ask) if ask.story else _test_card_verdict(ask)
    if not isinstance(verdict, WantsAuthentication):
        return verdict
    if ask.is_authenticated:
        return _after_authentication(ask)
    return decline("authentication_required", ask.brand) if ask.is_off_session else verdict


def setup_verdict(ask: Ask) -> Verdict:
    """Return the issuer's answer when a card is stored. Cards with a story can always be stored."""
    if ask.story is not None or ask.behaviour is None:
        return Approves()
    card = BY_NAME[ask.behaviour]
    if card.issuer is Issuer.DECLINES:
        return decline(card.decline or "generic_decline", ask.brand)
    wants = card.issuer in (
        Issuer.AUTHENTICATES_ALWAYS,
        Issuer.AUTHENTICATES_UNLESS_SET_UP,
        Issuer.AUTHENTICATES_THEN_DECLINES,
    )
    return WantsAuthentication() if wants and not ask.is_authenticated else Approves()


def decline(code: str, brand: str, says: Says | None = None, *, is_blocked: bool = False) -> Declines:
    """Word a decline; `says` overrides the table."""
    wording = wording_of(code)
    advice = (says and says.advice_code) or wording.advice
    advised = MASTERCARD_ADVICE.get(advice) if advice and brand == "mastercard" else None
    return Declines(
        code=wording.code,
        decline_code=wording.decline_code,
        message=wording.message,
        advice_code=advice,
        network_advice_code=(says and says.network_advice_code) or advised,
        network_decline_code=None if is_blocked else (says and says.network_decline_code) or wording.network_code,
        seller_message=wording.seller_message,
        is_blocked=is_blocked,
    )


def _test_card_verdict(ask: Ask) -> Verdict:
    card = BY_NAME[ask.behaviour or "visa"]
    match card.issuer:
        case Issuer.PAYS:
            return Approves()
        case Issuer.DISPUTED:
            return Approves(is_disputed=True)
        case Issuer.DECLINES | Issuer.DECLINES_CHARGES:
            return decline(card.decline or "generic_decline", ask.brand)
        case Issuer.BLOCKED:
            return decline(card.decline or "fraudulent", ask.brand, is_blocked=True)
        case Issuer.AUTHENTICATES_ALWAYS | Issuer.AUTHENTICATES_THEN_DECLINES:
            return WantsAuthentication()
        case Issuer.AUTHENTICATES_UNLESS_SET_UP:
            return Approves() if ask.is_off_session and ask.is_set_up else WantsAuthentication()
        case _:
            assert_never(card.issuer)


def _after_authentication(ask: Ask) -> Verdict:
    card = BY_NAME[ask.behaviour] if ask.story is None and ask.behaviour else None
    if card is not None and card.issuer is Issuer.AUTHENTICATES_THEN_DECLINES:
        return decline(card.decline or "generic_decline", ask.brand)
    return Approves()


def _story_verdict(story: Story, ask: Ask) -> Verdict:
    match story:
        case Pays():
            return Approves()
        case NeedsAuthentication():
            return WantsAuthentication()
        case AlwaysDeclines():
            says_no = True
        case DeclinesThenPays():
            says_no = ask.declined < story.times
        case InsufficientFundsUntil():
            says_no = ask.today < story.date
        case PaysUntil():
            says_no = ask.today >= story.date
        case _:
            assert_never(story)
    return decline(story.decline_code, ask.brand, story) if says_no else Approves()
