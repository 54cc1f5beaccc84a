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
        return self.decline_code or self.code or "no code"


@dataclass(frozen=True)
class Classified:
    """A decline's category, the fact that decided it, and how long the network requires to wait."""

    category: DeclineCategory
    cause: str
    wait: timedelta | None = None
    is_known: bool = True


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


def classify(decline: Decline) -> Classified:
    """Classify a decline; the order of the checks is `precedence` in declines.json."""
    known = category_of_code()
    never = _never(decline)
    if never is not None:
        return Classified(DeclineCategory.NEVER_THIS_CARD, never)
    # A code that means "never" or "check our request" wins over general advice to try again.
    hard = known.get(decline.decline_code or "")
    if hard in (DeclineCategory.NEVER_THIS_CARD, DeclineCategory.OUR_FAULT):
        return Classified(hard, f"decline code {decline.decline_code}")
    wait = _network_wait(decline)
    if wait is not None:
        return Classified(DeclineCategory.RETRY_DAILY, f"network advice {decline.network_advice_code}", wait)
    for kind, code, table in (
        ("advice code", decline.advice_code, facts()["advice_codes"]),
        ("decline code", decline.decline_code, known),
        ("code", decline.code, known),
    ):
        if code is not None and code in table:
            return Classified(DeclineCategory(table[code]), f"{kind} {code}")
    return Classified(DeclineCategory.RETRY_SPARINGLY, f"{decline.named}: unknown code", is_known=False)


def _never(decline: Decline) -> str | None:
    rules = facts()["network_never"]
    if decline.advice_code == "do_not_try_again":
        return "advice code do_not_try_again"
    if decline.network == "visa" and decline.network_decline_code in rules["visa_category_1"]:
        return f"Visa category 1 code {decline.network_decline_code}"
    if decline.network == "mastercard" and decline.network_advice_code in rules["mastercard_advice"]:
        return f"Mastercard advice {decline.network_advice_code}"
    return None


def _network_wait(decline: Decline) -> timedelta | None:
    if decline.network != "mastercard":
        return None
    hours = facts()["mastercard_advice_waits_hours"].get(decline.network_advice_code or "")
    return None if hours is None else timedelta(hours=hours)
