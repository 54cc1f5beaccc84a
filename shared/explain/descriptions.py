"""What outcomes and decline codes mean, in words for people. The facts are those of shared/domain/declines.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from shared.domain.declines import Decline, DeclineCategory, category_of_code, classify, facts
from shared.domain.money import format_minor
from shared.domain.states import AttemptState

MEANING_OF_OUTCOME: Mapping[AttemptState, str] = {
    AttemptState.STARTED: "sent or about to be; no answer yet",
    AttemptState.UNKNOWN: "nobody knows yet whether money moved",
    AttemptState.SUCCEEDED: "the money was taken",
    AttemptState.CANCELED: "the PaymentIntent was canceled; no money moved",
    AttemptState.NOT_SENT: "certain that no issuer was asked; no money moved, no decline",
    AttemptState.AUTHENTICATION_NEEDED: "the bank wants the customer's confirmation; no money moved",
}


@dataclass(frozen=True)
class FindingMeaning:
    """What a kind of finding says, and what a person does about it before resolving it."""

    means: str
    to_do: str


#: Every kind of finding that there is; a test holds this to the code.
MEANING_OF_FINDING: Mapping[str, FindingMeaning] = {
    "paid_there_open_here": FindingMeaning(
        "the processor took the money, and our books don't have it: the payment is held, lest it be asked again",
        "look the charge up at the processor; pay it back there, or book it by hand; only then release the payment",
    ),
    "amount_differs": FindingMeaning(
        "the charge at the processor, its receipt here, and what the payment asked for are not the same money",
        "the processor's figure is what was taken: pay the difference back there, or bill it; find who changed it",
    ),
    "charge_without_payment": FindingMeaning(
        "a charge names us, or a customer of ours, and no payment of ours belongs to it",
        "ask who made it in the processor's dashboard; pay it back, or bill it. Is this the right database?",
    ),
    "paid_without_charge": FindingMeaning(
        "our books say paid, and the processor knows no such charge",
        "is this the right Stripe account? If so, the money never came: find out who booked it, and bill it again",
    ),
    "paid_more_than_once": FindingMeaning(
        "one payment has a second succeeded charge: the customer paid twice",
        "pay the charge that is named back at the processor today, and report a defect",
    ),
    "orphan_payment_intent": FindingMeaning(
        "a PaymentIntent of a lost request is left at the processor; it holds no money, and isn't canceled yet",
        "nothing: the next reconciliation tries again. If it stays, cancel it in the processor's dashboard",
    ),
    "paid_after_its_end": FindingMeaning(
        "money came in for a payment that was void, written off or carried forward",
        "decide whether the customer owed it: if not, pay it back at the processor",
    ),
    "canceled_by_a_person": FindingMeaning(
        "somebody canceled the payment's PaymentIntent at the processor; the payment is held",
        "ask who and why; to collect after all: `duecourse payment charge PAYMENT --reason …`",
    ),
    "account_not_invoiced": FindingMeaning(
        "a monthly run passed over an account, because its data can't be invoiced",
        "mend the data, then `duecourse invoices run --period … --again --reason …`; that resolves it by itself",
    ),
}


@dataclass(frozen=True)
class FindingDetail:
    """One thing that a finding says: plain text, or money in minor units of a currency."""

    name: str
    text: str
    amount_minor: int | None = None
    currency: str | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.text}"


def details_of_finding(details: Mapping[str, Any]) -> list[FindingDetail]:
    """Return a finding's details in words: what is there, amounts as money."""
    currencies = {"booked_minor": details.get("booked_currency", details.get("currency"))}
    found = []
    for name, value in details.items():
        if value is None or name in ("currency", "booked_currency"):
            continue
        if name.endswith("_minor"):
            currency = str(currencies.get(name, details.get("currency")))
            words = name.removesuffix("_minor").replace("_", " ")
            found.append(FindingDetail(words, format_minor(value, currency), value, currency))
        else:
            found.append(FindingDetail(name.removesuffix("_id").replace("_", " "), str(value)))
    return found


def meaning_of_attempt(attempt: Row[Any]) -> str:
    """Say what a payment attempt's outcome means; of a decline, what its codes mean for this card."""
    state = AttemptState(attempt.state)
    if state is not AttemptState.DECLINED:
        return MEANING_OF_OUTCOME[state]
    return meaning_of_decline(
        Decline(
            code=attempt.code,
            decline_code=attempt.decline_code,
            advice_code=attempt.advice_code,
            network_advice_code=attempt.network_advice_code,
            network_decline_code=attempt.network_decline_code,
            network=attempt.card_network,
        )
    )


def meaning_of_decline(decline: Decline) -> str:
    """Say what a decline's code means; where another code than that one decides what follows, say that too."""
    decided, own = classify(decline), category_of_code().get(decline.named)
    if own is None and not decided.is_known:
        return f"{decline.named}: a code never seen before; asked again rarely, and an operator is told"
    if own is None or own is decided.category:
        return f"{decline.named}: {_meaning(decided.category)}"
    return f"{decline.named}: {_meaning(own)}. But {decided.cause} decides: {_meaning(decided.category)}"


def _meaning(category: DeclineCategory) -> str:
    meaning: str = facts()["categories"][category]["meaning"]
    return meaning
