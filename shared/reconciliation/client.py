"""The processor as reconciliation calls it: every missing answer is one exception, and requests are counted."""

from datetime import datetime
from uuid import uuid4

from shared.gateway.port import (
    Answer,
    ChargeReadBack,
    GatewayMissingError,
    GatewayUnavailableError,
    Page,
    PaymentIntentSnapshot,
    ProcessorGateway,
    StripeEventSnapshot,
    request,
)
from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES
from shared.reconciliation.window import Window

NOT_FOUND, BAD_REQUEST = 404, 400


class ProcessorUnavailableError(Exception):
    """The processor gave no usable answer. No work is half done: the next chunk starts it again."""


class Processor:
    """One coverage's account. Every method raises ProcessorUnavailableError if no answer came."""

    def __init__(self, gateway: ProcessorGateway) -> None:
        self._gateway = gateway
        self.requests = 0

    def charges(self, window: Window, after: str | None) -> Page[ChargeReadBack]:
        self.requests += 1
        try:
            return request("reconcile.look", self._gateway.charge_page, *window.of_charges, after)
        except (GatewayUnavailableError, GatewayMissingError) as error:
            raise ProcessorUnavailableError(f"charges were not listed: {error}") from error

    def payment_intents(self, window: Window, after: str | None) -> Page[PaymentIntentSnapshot]:
        self.requests += 1
        try:
            return request("reconcile.look", self._gateway.payment_intent_page, *window.of_intents, after)
        except (GatewayUnavailableError, GatewayMissingError) as error:
            raise ProcessorUnavailableError(f"PaymentIntents were not listed: {error}") from error

    def events(self, window: tuple[datetime, datetime], after: str | None) -> Page[StripeEventSnapshot]:
        self.requests += 1
        try:
            return request("reconcile.look", self._gateway.event_page, HANDLED_EVENT_TYPES, *window, after)
        except (GatewayUnavailableError, GatewayMissingError) as error:
            raise ProcessorUnavailableError(f"events were not listed: {error}") from error

    def was_in_use_before(self, instant: datetime) -> bool:
        self.requests += 1
        try:
            return request("reconcile.look", self._gateway.has_customer_before, instant)
        except (GatewayUnavailableError, GatewayMissingError) as error:
            raise ProcessorUnavailableError(f"customers were not listed: {error}") from error

    def charge(self, stripe_id: str) -> ChargeReadBack | None:
        """Retrieve one charge; None if there is no such charge."""
        self.requests += 1
        try:
            return request("reconcile.look", self._gateway.retrieve_charge, stripe_id)
        except GatewayMissingError:
            return None
        except GatewayUnavailableError as error:
            raise ProcessorUnavailableError(f"charge {stripe_id} could not be retrieved: {error}") from error

    def payment_intent(self, stripe_id: str) -> Answer | None:
        """Retrieve one PaymentIntent, inside its Answer; None if there is no such PaymentIntent."""
        self.requests += 1
        answer = request("reconcile.look", self._gateway.retrieve_payment_intent, stripe_id)
        return _shown(answer, stripe_id)

    def cancel(self, stripe_id: str) -> PaymentIntentSnapshot | None:
        """Cancel an orphan and return its state afterwards, canceled or not.

        None if the PaymentIntent no longer exists. Each call uses a new idempotency key: a second cancellation
        changes nothing, while a reused key would return a saved error every time.
        """
        self.requests += 1
        key = f"duecourse-cancel-orphan-{uuid4()}"
        answer = request("reconcile.cancel", self._gateway.cancel_payment_intent, stripe_id, key)
        is_unexplained = answer.payment_intent is None and answer.http_status == BAD_REQUEST
        shown = self.payment_intent(stripe_id) if is_unexplained else _shown(answer, stripe_id)
        return None if shown is None else shown.payment_intent


def _shown(answer: Answer, stripe_id: str) -> Answer | None:
    if answer.payment_intent is not None:
        return answer
    if answer.http_status == NOT_FOUND:
        return None
    raise ProcessorUnavailableError(f"PaymentIntent {stripe_id} could not be retrieved: {answer.reason}")
