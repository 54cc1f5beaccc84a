"""What Duecourse requests from a card processor, and its possible answers. No SDK type crosses this boundary.

Workers send their requests by `request`, which has a failpoint at either edge.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from shared.domain.declines import Decline
from shared.failpoints import reach_edge

#: The API version of all requests, pinned with the SDK release that was developed and tested against it. Changed
#: only deliberately. It is here because code that stores it needn't import the SDK.
STRIPE_API_VERSION = "2026-10-28.endive"

Listed = TypeVar("Listed")
Parameters = ParamSpec("Parameters")
Answered = TypeVar("Answered")


class Outcome(StrEnum):
    """The outcome of a request about money. The word "failed" is banned: it hides which of these it was."""

    SUCCEEDED = "succeeded"
    DECLINED = "declined"
    AUTHENTICATION_NEEDED = "authentication_needed"
    CANCELED = "canceled"
    NOT_SENT = "not_sent"  # certain that no issuer got a request
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class PaymentIntentSnapshot:
    """A PaymentIntent as the processor showed it. Amounts in minor units."""

    stripe_id: str
    status: str
    amount_minor: int
    amount_received_minor: int
    currency: str
    latest_charge_id: str | None = None
    cancellation_reason: str | None = None
    last_error: Decline | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    stripe_customer_id: str | None = None


class Missing(StrEnum):
    """What a refused charge names that isn't usable at the processor any more."""

    CARD = "card"  # detached or deleted; the customer is there
    CUSTOMER = "customer"  # deleted, and its cards with it
    BOTH_UNKNOWN = "both_unknown"  # neither was ever there: the API key is probably of another account


@dataclass(frozen=True)
class Answer:
    """One answer, or the lack of one, already classified by the outcome table."""

    outcome: Outcome
    reason: str
    payment_intent: PaymentIntentSnapshot | None = None
    decline: Decline | None = None
    charge_id: str | None = None
    http_status: int | None = None
    error_type: str | None = None
    code: str | None = None
    request_id: str | None = None
    needs_attention: bool = False  # an operator must look: keys, permissions, a defect in our request
    is_key_spent: bool = False  # a new request under the same key only gets this answer again
    is_refused: bool = False  # HTTP 4xx about the request itself: sent again, it is refused again
    missing: Missing | None = None  # of a refused charge: what was found missing afterwards


@dataclass(frozen=True)
class CardSnapshot:
    """A stored card as the processor showed it; `stripe_customer_id` is None once it is detached."""

    stripe_payment_method_id: str
    stripe_customer_id: str | None
    brand: str
    network: str | None
    last4: str
    exp_month: int
    exp_year: int
    fingerprint: str


@dataclass(frozen=True)
class SetupIntentSnapshot:
    """A SetupIntent: the customer's consent to store and charge a card."""

    stripe_id: str
    status: str
    stripe_customer_id: str | None
    stripe_payment_method_id: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class ChargeReadBack:
    """One charge as the processor records it; minor units."""

    stripe_id: str
    stripe_payment_intent_id: str | None
    amount_captured_minor: int
    currency: str
    is_paid: bool
    created_at: datetime
    metadata: Mapping[str, str]
    stripe_customer_id: str | None = None
    amount_refunded_minor: int = 0


@dataclass(frozen=True)
class DisputeSnapshot:
    """A dispute of a charge; minor units. `withdrawn_minor`: taken from our balance for it and not given back."""

    stripe_id: str
    stripe_charge_id: str
    stripe_payment_intent_id: str | None
    amount_minor: int
    currency: str
    reason: str
    status: str
    withdrawn_minor: int
    evidence_due_at: datetime | None


@dataclass(frozen=True)
class Page(Generic[Listed]):
    """One page of a list, newest first. Request the next page with `after`; None on the last one."""

    items: tuple[Listed, ...]
    after: str | None


@dataclass(frozen=True)
class StripeEventSnapshot:
    """The envelope of a webhook: all that we store of it."""

    stripe_event_id: str
    type: str
    stripe_object_id: str | None
    is_livemode: bool
    created_at: datetime


class GatewayUnavailableError(Exception):
    """A read got no usable answer; retry later."""


class GatewayRefusedError(GatewayUnavailableError):
    """The processor answered a read with 400, 401 or 403: an operator has to look, waiting alone doesn't help."""

    def __init__(self, why: str, *, http_status: int | None) -> None:
        super().__init__(why)
        #: The key is wrong, another account's, or lacks a permission; a corrected key makes the same read succeed.
        self.is_about_key = http_status in (401, 403, 404)


class GatewayMissingError(Exception):
    """The processor says that the object doesn't exist: in the account of the key that was used."""


class NotACardError(Exception):
    """The stored payment method is of another type than card."""


class ProcessorGateway(Protocol):
    """One coverage's account at the processor. It makes no decisions.

    The first three methods always return an Answer and never raise for errors of the processor or the network. The
    reads raise GatewayUnavailableError (GatewayRefusedError if the processor refuses them) or GatewayMissingError.
    """

    def create_payment_intent(self, parameters: Mapping[str, Any], key: str) -> Answer: ...
    def confirm_payment_intent(self, stripe_id: str, payment_method_id: str, key: str) -> Answer: ...
    def cancel_payment_intent(self, stripe_id: str, key: str) -> Answer: ...
    def retrieve_payment_intent(self, stripe_id: str) -> Answer: ...
    def create_customer(self, metadata: Mapping[str, str], key: str) -> str: ...
    def retrieve_setup_intent(self, stripe_id: str) -> SetupIntentSnapshot: ...
    def retrieve_card(self, stripe_payment_method_id: str) -> CardSnapshot: ...
    def find_missing(self, stripe_customer_id: str, stripe_payment_method_id: str) -> Missing | None: ...
    def retrieve_charge(self, stripe_id: str) -> ChargeReadBack: ...
    def retrieve_dispute(self, stripe_id: str) -> DisputeSnapshot: ...
    def retrieve_event(self, stripe_event_id: str) -> Mapping[str, Any]: ...
    def list_charges(self, created_from: datetime, created_until: datetime) -> Iterator[ChargeReadBack]: ...
    def charge_page(
        self, created_from: datetime, created_until: datetime, after: str | None
    ) -> Page[ChargeReadBack]: ...
    def payment_intent_page(
        self, created_from: datetime, created_until: datetime, after: str | None
    ) -> Page[PaymentIntentSnapshot]: ...
    def event_page(
        self, types: Collection[str], created_from: datetime, created_until: datetime, after: str | None
    ) -> Page[StripeEventSnapshot]: ...
    def has_customer_before(self, created_until: datetime) -> bool: ...
    def check_key(self) -> str: ...


def request(
    step: str, send: Callable[Parameters, Answered], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Answered:
    """Send a request by one of a gateway's methods; reach `<step>.sending` before it, `<step>.sent` after it.

    What the method raises is raised, and `.sent` isn't reached then: there was no answer.
    """
    reach_edge(step, "sending")
    answered = send(*args, **kwargs)
    reach_edge(step, "sent")
    return answered


class BadSignatureError(Exception):
    """A webhook that isn't Stripe's, is too old, or isn't signed with a known secret."""


class WebhookVerifier(Protocol):
    """Checks a webhook's signature over the raw body against every current secret."""

    def __call__(self, body: bytes, signature: str, secrets: Sequence[str]) -> StripeEventSnapshot: ...
