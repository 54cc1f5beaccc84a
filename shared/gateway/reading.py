"""Parses the processor's JSON into our own types. The only code that knows Stripe's field names."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from shared.domain.declines import Decline
from shared.gateway.port import (
    CardSnapshot,
    ChargeReadBack,
    DisputeSnapshot,
    PaymentIntentSnapshot,
    SetupIntentSnapshot,
)

Json = Mapping[str, Any]


def read_payment_intent(raw: object) -> PaymentIntentSnapshot | None:
    """Parse a PaymentIntent; None if `raw` isn't one with the required fields."""
    if not isinstance(raw, Mapping) or raw.get("object") != "payment_intent":
        return None
    try:
        return PaymentIntentSnapshot(
            stripe_id=str(raw["id"]),
            status=str(raw["status"]),
            amount_minor=int(raw["amount"]),
            amount_received_minor=int(raw.get("amount_received") or 0),
            currency=str(raw["currency"]).upper(),
            latest_charge_id=_id(raw.get("latest_charge")),
            cancellation_reason=raw.get("cancellation_reason"),
            last_error=_last_error(raw),
            metadata=dict(raw.get("metadata") or {}),
            stripe_customer_id=_id(raw.get("customer")),
        )
    except (KeyError, TypeError, ValueError):
        return None


def read_decline(error: Json) -> Decline:
    """Parse the codes of an error object, verbatim."""
    method = error.get("payment_method")
    card = method.get("card") if isinstance(method, Mapping) else None
    return Decline(
        code=error.get("code"),
        decline_code=error.get("decline_code"),
        advice_code=error.get("advice_code"),
        network_advice_code=error.get("network_advice_code"),
        network_decline_code=error.get("network_decline_code"),
        network=_network(card) if isinstance(card, Mapping) else None,
    )


def read_card(raw: Json) -> CardSnapshot:
    """Parse a PaymentMethod of type card. KeyError or TypeError if it isn't one."""
    card = raw["card"]
    return CardSnapshot(
        stripe_payment_method_id=str(raw["id"]),
        stripe_customer_id=_id(raw.get("customer")),
        brand=str(card["brand"]),
        network=_network(card),
        last4=str(card["last4"]),
        exp_month=int(card["exp_month"]),
        exp_year=int(card["exp_year"]),
        # Stripe has none for some cards: then the card counts as one of its own.
        fingerprint=str(card.get("fingerprint") or raw["id"]),
    )


def read_setup_intent(raw: Json) -> SetupIntentSnapshot:
    """Parse a SetupIntent."""
    return SetupIntentSnapshot(
        stripe_id=str(raw["id"]),
        status=str(raw["status"]),
        stripe_customer_id=_id(raw.get("customer")),
        stripe_payment_method_id=_id(raw.get("payment_method")),
        metadata=dict(raw.get("metadata") or {}),
    )


def read_charge(raw: Json) -> ChargeReadBack:
    """Parse a charge."""
    return ChargeReadBack(
        stripe_id=str(raw["id"]),
        stripe_payment_intent_id=_id(raw.get("payment_intent")),
        amount_captured_minor=int(raw.get("amount_captured") or 0),
        currency=str(raw["currency"]).upper(),
        is_paid=bool(raw.get("paid")) and raw.get("status") == "succeeded",
        created_at=datetime.fromtimestamp(int(raw["created"]), UTC),
        metadata=dict(raw.get("metadata") or {}),
        stripe_customer_id=_id(raw.get("customer")),
        amount_refunded_minor=int(raw.get("amount_refunded") or 0),
    )


def read_dispute(raw: Json) -> DisputeSnapshot:
    """Parse a dispute. Its balance transactions are what was withdrawn (below 0) and reinstated."""
    due_by = (raw.get("evidence_details") or {}).get("due_by")
    return DisputeSnapshot(
        stripe_id=str(raw["id"]),
        stripe_charge_id=str(_id(raw["charge"])),
        stripe_payment_intent_id=_id(raw.get("payment_intent")),
        amount_minor=int(raw["amount"]),
        currency=str(raw["currency"]).upper(),
        reason=str(raw["reason"]),
        status=str(raw["status"]),
        withdrawn_minor=-sum(int(move["amount"]) for move in raw.get("balance_transactions") or ()),
        evidence_due_at=None if due_by is None else datetime.fromtimestamp(int(due_by), UTC),
    )


def _id(reference: object) -> str | None:
    """A reference is an id, or the whole object if it was expanded."""
    if isinstance(reference, Mapping):
        reference = reference.get("id")
    return None if reference is None else str(reference)


def _network(card: Json) -> str | None:
    networks = card.get("networks")
    preferred = networks.get("preferred") if isinstance(networks, Mapping) else None
    name = preferred or card.get("network") or card.get("brand")
    return None if name is None else str(name)


def _last_error(raw: Json) -> Decline | None:
    error = raw.get("last_payment_error")
    return read_decline(error) if isinstance(error, Mapping) else None
