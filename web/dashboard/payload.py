"""An event's payload as a person may see it: formatted, without secrets, and with personal data masked for all."""

import json
from collections.abc import Mapping
from typing import Any

from shared.logs import redact

MASKED = "•••"
#: Whatever is below one of these names is somebody's, or a secret.
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
#: What we write into metadata is ids; what others write may be anything.
OUR_METADATA = "duecourse_"
#: A page of it; Stripe's events have some 5 kB.
LONGEST = 100_000


def show_payload(raw: Mapping[str, Any]) -> str:
    """Return the payload as JSON to look at."""
    text = json.dumps(masked(raw), indent=2, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n… (cut)"


def masked(value: Any, name: str = "", *, is_personal: bool = False) -> Any:
    """Return a copy in which each text below a personal name is masked; what isn't there stays visibly so."""
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
