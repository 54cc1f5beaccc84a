"""Descriptions of outcomes, decline codes and findings. Decline facts: shared/domain/declines.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.accounts.card_blocks import decline_of
from shared.db.rows import AttemptRow
from shared.domain.declines import Decline, explain, what_follows
from shared.domain.money import format_minor
from shared.domain.states import AttemptState

OUTCOME_DESCRIPTIONS: Mapping[AttemptState, str] = {
    AttemptState.STARTED: "sent or about to be sent; no answer yet",
    AttemptState.UNKNOWN: "the outcome is unknown: the money may have moved",
    AttemptState.SUCCEEDED: "the card was charged",
    AttemptState.CANCELED: "the PaymentIntent was canceled; no money moved",
    AttemptState.NOT_SENT: "the request certainly reached no issuer; no money moved, no decline",
    AttemptState.AUTHENTICATION_NEEDED: "the bank requires the customer's confirmation; no money moved",
}


@dataclass(frozen=True)
class FindingDescription:
    """What a kind of finding means, and what an operator does before resolving it."""

    meaning: str
    what_to_do: str


#: Every kind of finding; a test compares this with the code.
FINDING_DESCRIPTIONS: Mapping[str, FindingDescription] = {
    "paid_there_open_here": FindingDescription(
        "the processor took the money, but our records show the payment as unpaid; it is held to prevent a second "
        "charge",
        "look up the charge at the processor; refund it there or record it by hand; only then release the payment",
    ),
    "amount_differs": FindingDescription(
        "the charge at the processor, its receipt here and the payment have different amounts",
        "the processor's amount is what was taken: refund or invoice the difference, and find out who changed it",
    ),
    "charge_without_payment": FindingDescription(
        "a charge names us or one of our customers, but belongs to no payment of ours",
        "find out in the processor's dashboard who created it; refund or invoice it. Is this the right database?",
    ),
    "paid_without_charge": FindingDescription(
        "our records show the payment as paid, but the processor has no such charge",
        "is this the right Stripe account? If so, the money never arrived: find out who recorded it, and "
        "invoice it again",
    ),
    "paid_more_than_once": FindingDescription(
        "one payment has a second succeeded charge: the customer paid twice",
        "refund the charge that is named at the processor today, and report a defect",
    ),
    "orphan_payment_intent": FindingDescription(
        "a PaymentIntent of a lost request is left at the processor; it holds no money and isn't canceled yet",
        "nothing: the next reconciliation tries again. If it stays, cancel it in the processor's dashboard",
    ),
    "charge_refunded": FindingDescription(
        "a charge was refunded in the processor's dashboard, in full or in part; the payment still counts as paid",
        "correct the invoice as was agreed with the customer, then resolve it; a further refund opens it again",
    ),
    "charge_disputed": FindingDescription(
        "the cardholder disputes a charge at their bank; nothing of this payment is charged while that lasts",
        "answer in the processor's dashboard before the evidence is due, or accept it. Once it is won, this "
        "finding is resolved by itself; if it is lost, correct the invoice, and charge only if the customer agrees",
    ),
    "stripe_events_not_listed": FindingDescription(
        "Stripe keeps events for 30 days; those before the date named can't be listed any more, so changes whose "
        "webhook was lost are unknown here: cards registered or removed, disputes, refunds",
        "compare Stripe's dashboard from before that date: cards that customers added, refunds, disputes. A new "
        "installation: are all customers and cards imported? Then resolve it",
    ),
    "paid_after_its_end": FindingDescription(
        "money arrived for a payment that is void, written off or carried forward",
        "decide whether the customer owed it; if not, refund it at the processor",
    ),
    "canceled_by_a_person": FindingDescription(
        "a user of the processor's dashboard or API canceled the payment's PaymentIntent; the payment is held",
        "find out who canceled it and why; to collect anyway: `duecourse payment charge PAYMENT --reason …`",
    ),
    "canceled_for_unknown_reason": FindingDescription(
        "the payment's PaymentIntent was canceled at the processor, which doesn't say by whom; the payment is held",
        "look in the processor's dashboard who canceled it; to collect anyway: "
        "`duecourse payment charge PAYMENT --reason …`",
    ),
    "charge_refused_by_stripe": FindingDescription(
        "Stripe refuses the charge itself, not the card; the payment is held and no card was charged",
        "look the request up in the processor's dashboard and remove its cause; then release the payment "
        "on its page",
    ),
    "account_not_invoiced": FindingDescription(
        "a monthly run skipped an account, because its data can't be invoiced",
        "fix the data, then `duecourse invoices run --period … --again --reason …`; that resolves the finding",
    ),
}


@dataclass(frozen=True)
class FindingDetail:
    """One fact of a finding: plain text, or money in minor units of a currency."""

    name: str
    text: str
    amount_minor: int | None = None
    currency: str | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.text}"


def details_of_finding(details: Mapping[str, Any]) -> list[FindingDetail]:
    """Return a finding's details as names and values, amounts as money."""
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


def describe_attempt(attempt: AttemptRow) -> str:
    """Describe a payment attempt's outcome; for a decline, what its codes mean for this card."""
    state = AttemptState(attempt.state)
    if state is not AttemptState.DECLINED:
        return OUTCOME_DESCRIPTIONS[state]
    return describe_decline(decline_of(attempt))


def describe_decline(decline: Decline) -> str:
    """Say why a card was declined, with the codes, and what can be done."""
    return capitalised(f"{explain(decline)}: {what_follows(decline)}")


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
