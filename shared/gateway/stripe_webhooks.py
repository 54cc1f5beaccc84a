"""Stripe's webhooks: verifies the signature and parses the event. Besides the gateway, the only SDK user."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import stripe

from shared.gateway.port import BadSignatureError, StripeEventSnapshot

#: Seconds that a signature is valid (Stripe's own default, docs.stripe.com/webhooks): bounds a replay.
TOLERANCE_S = 300

_EVENT_ID = re.compile(r"[A-Za-z0-9_]{1,255}")
_EVENT_TYPE = re.compile(r"[a-z0-9_.]{1,255}")
_OBJECT_ID = re.compile(r"[A-Za-z0-9_\-]{1,255}")


class UnreadableEventError(ValueError):
    """Signed with our secret, but not a readable event; the message says what is wrong, without its content."""


def verify_webhook(body: bytes, signature: str, secrets: Sequence[str]) -> StripeEventSnapshot:
    """Check the signature over the raw body with each secret, and parse the event's envelope.

    Several secrets are valid at once during a rotation. Raises BadSignatureError, whose text may be logged, and
    UnreadableEventError if the body is signed but isn't an event.
    """
    reasons: list[str] = []
    for secret in secrets:
        reason = _why_not_signed(body, signature, secret)
        if reason is None:
            return read_envelope(body)
        reasons.append(reason)
    raise BadSignatureError("; ".join(dict.fromkeys(reasons)) or "there is no secret to check with")


def read_envelope(body: bytes) -> StripeEventSnapshot:
    """Parse id, type, object id, mode and time of an event (created: seconds since 1970); ignore the rest."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableEventError("the body is not JSON") from None
    return read_event(event)


def read_event(event: object) -> StripeEventSnapshot:
    """Parse an event's envelope from its JSON. Raises UnreadableEventError."""
    if not isinstance(event, Mapping) or event.get("object") != "event":
        raise UnreadableEventError("not a snapshot event; send `event` objects to this endpoint, not thin ones")
    data = event.get("data")
    subject = data.get("object") if isinstance(data, Mapping) else None
    if not isinstance(subject, Mapping):
        raise UnreadableEventError("data.object is missing")
    is_livemode = event.get("livemode")
    if not isinstance(is_livemode, bool):
        raise UnreadableEventError("livemode is neither true nor false")
    object_id = subject.get("id")  # some objects have none, such as a balance
    return StripeEventSnapshot(
        stripe_event_id=_text(event, "id", _EVENT_ID),
        type=_text(event, "type", _EVENT_TYPE),
        stripe_object_id=None if object_id is None else _text(subject, "id", _OBJECT_ID),
        is_livemode=is_livemode,
        created_at=_instant(event.get("created")),
    )


def _why_not_signed(body: bytes, signature: str, secret: str) -> str | None:
    if not signature.isascii():
        return "the signature header is not ASCII"  # the SDK's comparison raises TypeError for it
    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_S)
    except stripe.SignatureVerificationError as error:
        return str(error)
    except UnicodeDecodeError:  # the SDK signs text, as Stripe does
        return "the body is not UTF-8"
    return None


def _text(values: Mapping[str, object], name: str, shape: re.Pattern[str]) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not shape.fullmatch(value):
        raise UnreadableEventError(f"{name} is missing or doesn't look like Stripe's")
    return value


def _instant(seconds: object) -> datetime:
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise UnreadableEventError("created is not a number of seconds")
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        raise UnreadableEventError("created is out of range") from None
