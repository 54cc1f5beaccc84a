"""Classifies declines. The facts are in `declines.json` beside this file, each group with its source."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any


class DeclineCategory(StrEnum):
    """What can be done after a decline. declines.json describes each category."""

    RETRY_SOON = "retry_soon"
    RETRY_DAILY = "retry_daily"
    RETRY_SPARINGLY = "retry_sparingly"
    NEEDS_PAYMENT_METHOD = "needs_payment_method"
    NEEDS_AUTHENTICATION = "needs_authentication"
    NEVER_THIS_CARD = "never_this_card"
    OUR_FAULT = "our_fault"


#: What a decline without any code is called.
NO_CODE = "no code"


@dataclass(frozen=True)
class Decline:
    """The codes of one decline, verbatim from the processor; None if it sent none."""

    code: str | None = None
    decline_code: str | None = None
    advice_code: str | None = None
    network_advice_code: str | None = None
    network_decline_code: str | None = None
    network: str | None = None

    @property
    def named(self) -> str:
        """The most specific code, for users: decline_code, otherwise code."""
        return self.decline_code or self.code or NO_CODE


@dataclass(frozen=True)
class Classified:
    """A decline's category, the fact that decided it, and how long the network requires to wait.

    `blocked_for` is set where a network forbids the card only for some time; None with NEVER_THIS_CARD: for good.
    `cause` names the code that decided; `explain` says in words why the card was declined.
    """

    category: DeclineCategory
    cause: str
    wait: timedelta | None = None
    is_known: bool = True
    blocked_for: timedelta | None = None


@dataclass(frozen=True)
class NetworkFact:
    """What a network's own code means. Without a category, the decline code decides what follows."""

    name: str
    cause: str
    meaning: str
    category: DeclineCategory | None
    wait: timedelta | None
    blocked_for: timedelta | None


@dataclass(frozen=True)
class NetworkBudget:
    """At most `max_attempts` for one card within `window`, by the network's rules."""

    network: str
    max_attempts: int
    window: timedelta


@cache
def facts() -> Mapping[str, Any]:
    """Return the table of facts that ships with the project."""
    loaded: dict[str, Any] = json.loads(files("shared.domain").joinpath("declines.json").read_text("utf-8"))
    return loaded


@cache
def category_of_code() -> Mapping[str, DeclineCategory]:
    """Return the category of each known code."""
    return {code: DeclineCategory(name) for name, group in facts()["categories"].items() for code in group["codes"]}


@cache
def network_budgets() -> tuple[NetworkBudget, ...]:
    """Return the networks' limits on attempts per card (sources in declines.json)."""
    return tuple(
        NetworkBudget(row["network"], row["max_attempts"], timedelta(days=row["window_days"]))
        for row in facts()["network_budgets"]
    )


def budgets_for(network: str | None) -> tuple[NetworkBudget, ...]:
    """Return the budgets for a card of `network`; the conservative one if we have no rule."""
    own = tuple(budget for budget in network_budgets() if budget.network == network)
    return own or tuple(budget for budget in network_budgets() if budget.network == "other")


def network_fact(decline: Decline) -> NetworkFact | None:
    """Return what the code of the card's network means; None if there is none, or it isn't known."""
    if decline.network == "visa":
        code, table = decline.network_decline_code, facts()["visa_response_codes"]["codes"]
    elif decline.network == "mastercard":
        code, table = decline.network_advice_code, facts()["mastercard_advice"]["codes"]
    else:
        return None
    row = table.get(code or "")
    if row is None:
        return None
    category = row.get("category")
    wait, days = row.get("wait_hours"), row.get("block_days")
    return NetworkFact(
        name=f"{'Visa' if decline.network == 'visa' else 'Mastercard advice'} {code}",
        cause=_network_cause(decline, row),
        meaning=row["meaning"],
        category=None if category is None else DeclineCategory(category),
        wait=None if wait is None else timedelta(hours=wait),
        blocked_for=None if days is None else timedelta(days=days),
    )


def _network_cause(decline: Decline, row: Mapping[str, Any]) -> str:
    if decline.network == "visa":
        is_first = row.get("category") == DeclineCategory.NEVER_THIS_CARD
        return f"Visa {'category 1 ' if is_first else ''}code {decline.network_decline_code}"
    return f"{'network' if 'wait_hours' in row else 'Mastercard'} advice {decline.network_advice_code}"


def classify(decline: Decline) -> Classified:
    """Classify a decline; the order of the checks is `precedence` in declines.json."""
    known, network = category_of_code(), network_fact(decline)
    hard = known.get(decline.decline_code or "")
    never = _never(decline, network, hard)
    if never is not None:
        return never
    if hard is not None and decline.decline_code in facts()["not_by_the_issuer"]:
        return Classified(hard, f"decline code {decline.decline_code}")
    # A code that means "never" or "check our request" wins over general advice to try again.
    if hard in (DeclineCategory.NEVER_THIS_CARD, DeclineCategory.OUR_FAULT):
        return Classified(hard, f"decline code {decline.decline_code}")
    if network is not None and network.category is not None:
        return Classified(network.category, network.cause, network.wait)
    for kind, code, table in (
        ("advice code", decline.advice_code, facts()["advice_codes"]["codes"]),
        ("decline code", decline.decline_code, known),
        ("code", decline.code, known),
    ):
        if code is not None and code in table:
            return Classified(DeclineCategory(table[code]), f"{kind} {code}")
    return Classified(DeclineCategory.RETRY_SPARINGLY, f"{decline.named}: unknown code", is_known=False)


def _never(decline: Decline, network: NetworkFact | None, hard: DeclineCategory | None) -> Classified | None:
    """Classify what forbids the card. Stripe's advice repeats the network's: the network says for how long."""
    never = DeclineCategory.NEVER_THIS_CARD
    forbids = network is not None and network.category is never
    if network is not None and forbids and network.blocked_for is not None and hard is not never:
        return Classified(never, network.cause, blocked_for=network.blocked_for)
    # Stripe's rules or our own list refused this transaction; no issuer said anything about the card.
    if not forbids and decline.decline_code in facts()["not_by_the_issuer"]:
        return None
    asks_to_register = network is not None and network.category is DeclineCategory.NEEDS_PAYMENT_METHOD
    if decline.advice_code == "do_not_try_again" and not asks_to_register:
        return Classified(never, "advice code do_not_try_again")
    return Classified(never, network.cause) if network is not None and forbids else None


def explain(decline: Decline) -> str:
    """Say why the card was declined: the meaning, then the codes.

    For example "the card has expired (expired_card, advice confirm_card_data)". The network's meaning comes first
    where its code decides what follows.
    """
    network, decided = network_fact(decline), classify(decline)
    codes = [decline.named] if decline.named != NO_CODE else []
    if decline.advice_code is not None:
        codes.append(f"advice {decline.advice_code}")
    if network is not None and network.category is not None:
        codes.append(network.name)
    is_decisive = network is not None and decided.cause == network.cause and network.wait is None
    meaning = network.meaning if network is not None and is_decisive else meaning_of_code(decline.named)
    return f"{meaning} ({', '.join(codes)})" if codes else meaning


def meaning_of_code(code: str) -> str:
    """Return what a decline's code means."""
    if code == NO_CODE:
        return "the card was declined without a code"
    return _meanings().get(code, "the issuer sent a code that isn't known")


def what_follows(decline: Decline) -> str:
    """Say what can be done after a decline, by the same facts as `classify`."""
    decided = classify(decline)
    if decided.blocked_for is not None:
        return forbidden_for(decided.blocked_for)
    if decided.wait is not None:
        return f"the network asks to wait {int(decided.wait / timedelta(hours=1))} hours"
    follows: str = facts()["categories"][decided.category]["what_follows"]
    return follows if decided.is_known else f"{follows}; operators are alerted"


def forbidden_for(time: timedelta) -> str:
    """Say how long a network forbids a card."""
    return f"this card must not be charged for {time.days} days, and then once if the customer registers it again"


@cache
def _meanings() -> Mapping[str, str]:
    return {code: words for group in facts()["categories"].values() for code, words in group["codes"].items()}
