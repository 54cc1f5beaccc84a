"""Webhook bodies and signatures as Stripe sends them, made by the documented scheme, not by the SDK under test."""

import hashlib
import hmac
import json
import time
from typing import Any

SECRET = {"global": "whsec_global_new", "japan": "whsec_japan"}
OLD_SECRET = "whsec_global_old"


def event_body(event_id: str = "evt_1", event_type: str = "setup_intent.succeeded", **changes: Any) -> bytes:
    """The body of an event about the SetupIntent seti_1; its payload holds what must never be logged or stored."""
    event = {
        "id": event_id,
        "object": "event",
        "api_version": "2026-06-24.preview",
        "created": 1_793_000_000,
        "data": {"object": {"id": "seti_1", "object": "setup_intent", "description": "Annabel Lee, +44 1534 1"}},
        "livemode": False,
        "type": event_type,
        **changes,
    }
    return json.dumps(event).encode()


def signature(body: bytes, secret: str = SECRET["global"], age_s: int = 0) -> str:
    """docs.stripe.com/webhooks: `t=…,v1=HMAC-SHA256(secret, t + "." + body)`."""
    at = int(time.time()) - age_s
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest},v0=aaaa"
