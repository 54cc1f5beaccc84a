"""What a SetupIntent of ours requests: whose card it is, and whether that card is to be charged."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.gateway.port import SetupIntentSnapshot

#: Metadata that we put on a SetupIntent.
SETTINGS_ID_KEY = "duecourse_settings_id"
INTENT_KEY = "duecourse_intent"
REPLACE, ADD = "replace", "add"


@dataclass(frozen=True)
class Registration:
    """A SetupIntent of ours that succeeded. `succeeded_at` is the processor's time of its event."""

    coverage: str
    stripe_setup_intent_id: str
    settings_id: UUID
    stripe_customer_id: str
    stripe_payment_method_id: str
    is_replacement: bool
    succeeded_at: datetime


def read_registration(
    coverage: str, setup_intent: SetupIntentSnapshot, succeeded_at: datetime
) -> Registration | str:
    """Read a SetupIntent's metadata; a text says why it registers no card."""
    metadata = setup_intent.metadata
    if SETTINGS_ID_KEY not in metadata and INTENT_KEY not in metadata:
        return "not ours: the SetupIntent has no metadata of Duecourse"
    if setup_intent.status != "succeeded":
        return f"nothing to do: the SetupIntent is {setup_intent.status}"
    try:
        settings_id = UUID(metadata.get(SETTINGS_ID_KEY, ""))
    except ValueError:
        return f"refused: metadata {SETTINGS_ID_KEY} is not a valid ID"
    intent = metadata.get(INTENT_KEY)
    if intent not in (REPLACE, ADD):
        return f"refused: metadata {INTENT_KEY} is neither {REPLACE} nor {ADD}"
    if setup_intent.stripe_customer_id is None or setup_intent.stripe_payment_method_id is None:
        return "refused: the SetupIntent has no customer or no payment method"
    return Registration(
        coverage,
        setup_intent.stripe_id,
        settings_id,
        setup_intent.stripe_customer_id,
        setup_intent.stripe_payment_method_id,
        intent == REPLACE,
        succeeded_at,
    )
