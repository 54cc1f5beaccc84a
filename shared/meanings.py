"""What outcomes and decline codes mean, in words for people. The facts are those of shared/domain/declines.json."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row

from shared.domain.declines import Decline, DeclineCategory, category_of_code, classify, facts
from shared.domain.states import AttemptState

MEANING_OF_OUTCOME: Mapping[AttemptState, str] = {
    AttemptState.STARTED: "sent or about to be; no answer yet",
    AttemptState.UNKNOWN: "nobody knows yet whether money moved",
    AttemptState.SUCCEEDED: "the money was taken",
    AttemptState.CANCELED: "the PaymentIntent was canceled; no money moved",
    AttemptState.NOT_SENT: "certain that no issuer was asked; no money moved, no decline",
    AttemptState.AUTHENTICATION_NEEDED: "the bank wants the customer's confirmation; no money moved",
}


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
    return f"{decline.named}: {_meaning(own)}. But {decided.because} decides: {_meaning(decided.category)}"


def _meaning(category: DeclineCategory) -> str:
    meaning: str = facts()["categories"][category]["meaning"]
    return meaning
