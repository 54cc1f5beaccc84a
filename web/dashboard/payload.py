"""Format an event's payload for operators: secrets removed, personal data masked for every role."""

import json
from collections.abc import Mapping
from typing import Any

from shared.logs import redact

MASKED = "•••"
#: Values below one of these names are personal data or secrets.
PERSONAL = frozenset(
    {
        "address",
        "billing_details",
        "client_secret",
        "customer_email",
        "customer_name",
        "customer_phone",
        "description",
        "email",
        "individual_name",
        "ip",
        "ip_address",
        "name",
        "phone",
        "receipt_email",
        "receipt_url",
        "shipping",
        "tax_id",
        "tax_ids",
        "user_agent",
    }
)
#: Our own metadata holds only ids; metadata of others may hold anything.
OUR_METADATA = "duecourse_"
#: Characters shown; Stripe's events have some 5 kB.
LONGEST = 100_000


def show_payload(raw: Mapping[str, Any]) -> str:
    """Return the payload as formatted JSON."""
    text = json.dumps(masked(raw), indent=2, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n… (cut)"


def masked(value: Any, name: str = "", *, is_personal: bool = False) -> Any:
    """Return a copy in which every text below a personal name is masked; nulls stay visible."""
    if isinstance(value, Mapping):
        return {
            key: masked(inner, key, is_personal=is_personal or _is_personal(str(key), name))
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(inner, name, is_personal=is_personal) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    if is_personal:
        return MASKED
    return redact(value) if isinstance(value, str) else value


def _is_personal(key: str, parent: str) -> bool:
    return key in PERSONAL or (parent == "metadata" and not key.startswith(OUR_METADATA))
