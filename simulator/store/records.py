"""The stored fields of each object, only those that can differ. `simulator/api/views.py` renders Stripe's JSON.

Records are frozen; a change is `dataclasses.replace` and `Store.save`. Amounts are in minor units, `created`
and the other instants are seconds of the business clock.
"""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

Metadata = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Any stored object. `parent` is the second filter of lists."""

    TABLE: ClassVar[str]
    PREFIX: ClassVar[str]
    NOUN: ClassVar[str]

    id: str
    account: str
    created: int

    @property
    def owner(self) -> str | None:
        """The customer, for `?customer=`."""
        return None

    @property
    def parent(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer(Record):
    TABLE: ClassVar[str] = "customers"
    PREFIX: ClassVar[str] = "cus"
    NOUN: ClassVar[str] = "customer"

    email: str | None = None
    name: str | None = None
    phone: str | None = None
    description: str | None = None
    address: dict[str, Any] | None = None
    default_payment_method: str | None = None
    is_deleted: bool | None = None
    preferred_locales: list[str] = field(default_factory=list)
    metadata: Metadata = field(default_factory=dict)

    @property
    def parent(self) -> str | None:
        return self.email


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentMethod(Record):
    """`behaviour` names the row of the test-card table; None for a card with a story.

    `is_set_up`: the customer authenticated when storing it. `is_spent`: detached, or used without a customer;
    Stripe doesn't let such a PaymentMethod be used again.
    """

    TABLE: ClassVar[str] = "payment_methods"
    PREFIX: ClassVar[str] = "pm"
    NOUN: ClassVar[str] = "PaymentMethod"

    brand: str
    last4: str
    exp_month: int
    exp_year: int
    fingerprint: str
    behaviour: str | None = None
    country: str = "US"
    customer: str | None = None
    is_set_up: bool = False
    is_spent: bool = False
    allow_redisplay: str = "unspecified"
    billing_details: dict[str, Any] = field(default_factory=dict)
    metadata: Metadata = field(default_factory=dict)

    @property
    def owner(self) -> str | None:
        return self.customer


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupIntent(Record):
    TABLE: ClassVar[str] = "setup_intents"
    PREFIX: ClassVar[str] = "seti"
    NOUN: ClassVar[str] = "setup_intent"

    status: str
    customer: str | None = None
    payment_method: str | None = None
    usage: str = "off_session"
    description: str | None = None
    cancellation_reason: str | None = None
    latest_attempt: str | None = None
    last_setup_error: dict[str, Any] | None = None
    next_action: dict[str, Any] | None = None
    automatic_payment_methods: dict[str, Any] | None = None
    payment_method_types: list[str] = field(default_factory=lambda: ["card"])
    metadata: Metadata = field(default_factory=dict)

    @property
    def owner(self) -> str | None:
        return self.customer

    @property
    def parent(self) -> str | None:
        return self.payment_method


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentIntent(Record):
    """`declines` counts failed charges towards the confirmation limit."""

    TABLE: ClassVar[str] = "payment_intents"
    PREFIX: ClassVar[str] = "pi"
    NOUN: ClassVar[str] = "payment_intent"

    amount: int
    currency: str
    status: str
    customer: str | None = None
    payment_method: str | None = None
    capture_method: str = "automatic_async"
    declines: int = 0
    amount_capturable: int = 0
    amount_received: int = 0
    latest_charge: str | None = None
    last_payment_error: dict[str, Any] | None = None
    next_action: dict[str, Any] | None = None
    canceled_at: int | None = None
    cancellation_reason: str | None = None
    setup_future_usage: str | None = None
    description: str | None = None
    receipt_email: str | None = None
    statement_descriptor: str | None = None
    statement_descriptor_suffix: str | None = None
    request_three_d_secure: str = "automatic"
    automatic_payment_methods: dict[str, Any] | None = None
    payment_method_types: list[str] = field(default_factory=lambda: ["card"])
    metadata: Metadata = field(default_factory=dict)

    @property
    def owner(self) -> str | None:
        return self.customer


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge(Record):
    """One request to the issuer. The card is copied, so that later changes of the card don't change it."""

    TABLE: ClassVar[str] = "charges"
    PREFIX: ClassVar[str] = "ch"
    NOUN: ClassVar[str] = "charge"

    amount: int
    currency: str
    status: str
    payment_intent: str
    payment_method: str
    brand: str
    last4: str
    exp_month: int
    exp_year: int
    fingerprint: str
    outcome: dict[str, Any]
    customer: str | None = None
    country: str = "US"
    captured: bool = False
    amount_captured: int = 0
    amount_refunded: int = 0
    disputed: bool = False
    authorization_code: str | None = None
    capture_before: int | None = None
    failure_code: str | None = None
    failure_message: str | None = None
    description: str | None = None
    receipt_email: str | None = None
    statement_descriptor: str | None = None
    statement_descriptor_suffix: str | None = None
    billing_details: dict[str, Any] = field(default_factory=dict)
    metadata: Metadata = field(default_factory=dict)

    @property
    def owner(self) -> str | None:
        return self.customer

    @property
    def parent(self) -> str | None:
        return self.payment_intent


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute(Record):
    """A cardholder's bank disputes a charge. `moves` are the amounts taken from (below 0) and given back to us."""

    TABLE: ClassVar[str] = "disputes"
    PREFIX: ClassVar[str] = "du"
    NOUN: ClassVar[str] = "dispute"

    charge: str
    payment_intent: str
    amount: int
    currency: str
    reason: str
    status: str
    brand: str
    moves: list[int] = field(default_factory=list)

    @property
    def parent(self) -> str | None:
        return self.charge


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Record):
    """`subject` is the record as it was; it is rendered when the event is read or sent."""

    TABLE: ClassVar[str] = "events"
    PREFIX: ClassVar[str] = "evt"
    NOUN: ClassVar[str] = "event"

    type: str
    subject_table: str
    subject: dict[str, Any]
    request_id: str | None = None
    idempotency_key: str | None = None
    previous_attributes: dict[str, Any] | None = None

    @property
    def parent(self) -> str | None:
        return self.type


KINDS: dict[str, type[Record]] = {
    kind.TABLE: kind for kind in (Customer, PaymentMethod, SetupIntent, PaymentIntent, Charge, Dispute, Event)
}

_FIELDS: dict[type[Record], tuple[str, ...]] = {
    kind: tuple(each.name for each in fields(kind)) for kind in KINDS.values()
}


def to_plain(record: Record) -> dict[str, Any]:
    """Return the fields without those that are None, which keeps a row near 300 bytes."""
    return {name: value for name in _FIELDS[type(record)] if (value := getattr(record, name)) is not None}
