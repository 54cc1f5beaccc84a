"""The faults that a rule can script: what each does, where it applies, and which parameters it takes.

Everything else about these kinds is built from this table: rules and their checks (rules.py), the hooks
(scripted.py), the chaos plans (local/chaos/catalogue.py) and the model's weather (tests/model/weather.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

#: What a rule can aim at. The first four are about PaymentIntents; `list` is any list; `other` is all the rest.
OPERATIONS = ("create", "confirm", "cancel", "retrieve", "list", "other")

_ANY = frozenset(OPERATIONS)
_WRITES = frozenset({"create", "confirm", "cancel", "other"})
_NONE: frozenset[str] = frozenset()


class Place(StrEnum):
    """The moment in a request or a webhook at which a fault applies."""

    ARRIVAL = "before the request is processed"
    ENDPOINT = "in place of what the endpoint does, in its transaction"
    ANSWER = "after the commit, before the answer is sent"
    DELIVERY = "before a webhook is sent"


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One kind of fault. `operations` are those it fits; empty for a webhook on its way.

    `skips_replays`: it changes what the endpoint does, so a replay of a saved answer can't have it.
    `needs_key`: it is about an idempotency key, so it fits only requests that carry one.
    """

    name: str
    place: Place
    description: str
    operations: frozenset[str] = _ANY
    skips_replays: bool = False
    needs_key: bool = False
    needs_delay: bool = False  # delay_ms is required
    may_delay: bool = False  # delay_ms is optional
    may_advise: bool = False  # should_retry is allowed: the answer may carry Stripe-Should-Retry


_REQUEST_KINDS: tuple[FaultKind, ...] = (
    FaultKind(
        "idempotency_error",
        Place.ARRIVAL,
        "400: the key was used with other parameters",
        _WRITES,
        needs_key=True,
        may_advise=True,
    ),
    FaultKind(
        "unexpected_state",
        Place.ENDPOINT,
        "400 payment_intent_unexpected_state with the PaymentIntent: not applied, saved under its key",
        frozenset({"confirm", "cancel"}),
        skips_replays=True,
        may_advise=True,
    ),
    FaultKind("unauthorized", Place.ARRIVAL, "401: the API key is rejected", may_advise=True),
    FaultKind(
        "card_declined", Place.ENDPOINT, "402: the issuer declines", frozenset({"confirm"}), skips_replays=True
    ),
    FaultKind("forbidden", Place.ARRIVAL, "403: the API key has no permission", may_advise=True),
    FaultKind(
        "key_in_use",
        Place.ARRIVAL,
        "409: another request with this key is in progress",
        _WRITES,
        needs_key=True,
        may_advise=True,
    ),
    FaultKind(
        "rate_limited",
        Place.ARRIVAL,
        "429 with Stripe-Rate-Limited-Reason: not applied, not saved",
        may_advise=True,
    ),
    FaultKind(
        "lock_timeout",
        Place.ARRIVAL,
        "429 lock_timeout: the object is in use, not applied, not saved",
        may_advise=True,
    ),
    FaultKind(
        "server_error",
        Place.ENDPOINT,
        "500: applied, saved under its key and replayed",
        skips_replays=True,
        may_advise=True,
    ),
    FaultKind(
        "server_error_unapplied",
        Place.ENDPOINT,
        "500: not applied, but saved under its key",
        skips_replays=True,
        may_advise=True,
    ),
    FaultKind("unavailable", Place.ARRIVAL, "503: not applied, not saved", may_advise=True),
    FaultKind("slow", Place.ANSWER, "applied at once, answered after delay_ms", needs_delay=True),
    FaultKind("slow_before", Place.ARRIVAL, "applied only after delay_ms", needs_delay=True),
    FaultKind("cut_before", Place.ARRIVAL, "the connection is cut before the request is applied"),
    FaultKind("cut_after", Place.ANSWER, "applied, then the connection is cut"),
    FaultKind("cut_mid_body", Place.ANSWER, "applied, then the connection is cut in the middle of the body"),
    FaultKind("not_json", Place.ANSWER, "applied, but the body of the answer is HTML"),
    FaultKind(
        "list_lagging",
        Place.ENDPOINT,
        "a list omits what was created in the last delay_ms (machine time)",
        frozenset({"list"}),
        skips_replays=True,
        needs_delay=True,
    ),
    FaultKind(
        "canceled_by_limit",
        Place.ENDPOINT,
        "the PaymentIntent is canceled as by the limit of confirmations",
        frozenset({"confirm"}),
        skips_replays=True,
    ),
    FaultKind(
        "canceled_by_person",
        Place.ARRIVAL,
        "canceled in Stripe's dashboard (requested_by_customer) right before the request is applied",
        frozenset({"confirm", "cancel", "retrieve"}),
        skips_replays=True,
    ),
)

_WEBHOOK_KINDS: tuple[FaultKind, ...] = (
    FaultKind("webhook_dropped", Place.DELIVERY, "a webhook is never sent", _NONE),
    FaultKind(
        "webhook_duplicated",
        Place.DELIVERY,
        "a webhook is sent twice, the second time delay_ms later",
        _NONE,
        may_delay=True,
    ),
    FaultKind("webhook_delayed", Place.DELIVERY, "a webhook is sent after delay_ms", _NONE, needs_delay=True),
    FaultKind(
        "webhook_reordered",
        Place.DELIVERY,
        "a webhook is held until a later one was taken, at most delay_ms (10 s if not given)",
        _NONE,
        may_delay=True,
    ),
    FaultKind(
        "webhook_before_answer",
        Place.ANSWER,
        "a webhook is taken before the request that caused it is answered",
        _WRITES,
        skips_replays=True,
    ),
)

FAULTS: Mapping[str, FaultKind] = {kind.name: kind for kind in (*_REQUEST_KINDS, *_WEBHOOK_KINDS)}
REQUEST_FAULTS = tuple(kind.name for kind in _REQUEST_KINDS)
WEBHOOK_FAULTS = tuple(kind.name for kind in _WEBHOOK_KINDS)
FAULT_NAMES = (*REQUEST_FAULTS, *WEBHOOK_FAULTS)


def faults_at(place: Place) -> frozenset[str]:
    """Return the names of the kinds that apply at this place."""
    return frozenset(kind.name for kind in FAULTS.values() if kind.place is place)
