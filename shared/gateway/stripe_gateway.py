"""The Stripe adapter: the only module, besides the webhook check, that imports Stripe's SDK.

It sends requests and parses answers. It makes no decisions and retries nothing: only settlement repeats requests.
So the SDK's own retries are off, and each POST carries the key that it was given.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import requests
import stripe
import urllib3.exceptions

from shared.domain.declines import Decline
from shared.gateway.outcomes import NEEDS_ATTENTION, OUTCOMES, Problem, card_problem, status_of
from shared.gateway.port import (
    STRIPE_API_VERSION,
    Answer,
    CardSnapshot,
    ChargeReadBack,
    DisputeSnapshot,
    GatewayMissingError,
    GatewayRefusedError,
    GatewayUnavailableError,
    Missing,
    NotACardError,
    Outcome,
    Page,
    PaymentIntentSnapshot,
    ProcessorGateway,
    SetupIntentSnapshot,
    StripeEventSnapshot,
)
from shared.gateway.reading import (
    read_card,
    read_charge,
    read_decline,
    read_dispute,
    read_payment_intent,
    read_setup_intent,
)
from shared.gateway.stripe_webhooks import read_event
from shared.settings import Settings

#: Stripe's largest page size.
PAGE = 100

stripe.enable_telemetry = False

#: The problem for each SDK error whose class alone determines it. Order matters: subclasses first.
_PROBLEM_OF_ERROR: tuple[tuple[type[stripe.StripeError], Problem], ...] = (
    (stripe.IdempotencyError, Problem.KEY_MISUSED),
    (stripe.RateLimitError, Problem.RATE_LIMITED),
    (stripe.AuthenticationError, Problem.KEY_REFUSED),
    (stripe.PermissionError, Problem.FORBIDDEN),
    (stripe.CardError, Problem.CARD),
    (stripe.InvalidRequestError, Problem.REFUSED),
)


class StripeGateway:
    """One coverage's Stripe account. See ProcessorGateway for each method's contract."""

    def __init__(
        self,
        api_key: str,
        *,
        api_base: str | None,
        requests_per_s: float,
        connect_timeout_s: float,
        read_timeout_s: float,
        why_not: Callable[[str], str | None] | None = None,
    ) -> None:
        """`why_not` gets the id of the key's account before the first request; its answer stops all requests."""
        self._why_not = why_not
        self._client = stripe.StripeClient(
            api_key,
            stripe_version=STRIPE_API_VERSION,
            base_addresses={"api": api_base} if api_base else None,
            max_network_retries=0,
            # Not the SDK's default of 80 s. The read timeout is per socket read.
            http_client=stripe.RequestsClient(
                timeout=(connect_timeout_s, read_timeout_s), session=_direct_session() if api_base else None
            ),
        )
        self._limit = RateLimit(requests_per_s)

    def create_payment_intent(self, parameters: Mapping[str, Any], key: str) -> Answer:
        return self._ask(
            lambda: self._client.v1.payment_intents.create(dict(parameters), {"idempotency_key": key})  # type: ignore[arg-type]  # stored as JSON
        )

    def confirm_payment_intent(self, stripe_id: str, payment_method_id: str, key: str) -> Answer:
        return self._ask(
            lambda: self._client.v1.payment_intents.confirm(
                stripe_id, {"payment_method": payment_method_id, "off_session": True}, {"idempotency_key": key}
            )
        )

    def cancel_payment_intent(self, stripe_id: str, key: str) -> Answer:
        return self._ask(lambda: self._client.v1.payment_intents.cancel(stripe_id, {}, {"idempotency_key": key}))

    def retrieve_payment_intent(self, stripe_id: str) -> Answer:
        return self._ask(lambda: self._client.v1.payment_intents.retrieve(stripe_id))

    def create_customer(self, metadata: Mapping[str, str], key: str) -> str:
        raw = self._read(
            lambda: self._client.v1.customers.create({"metadata": dict(metadata)}, {"idempotency_key": key})
        )
        return str(raw["id"])

    def retrieve_setup_intent(self, stripe_id: str) -> SetupIntentSnapshot:
        return read_setup_intent(self._read(lambda: self._client.v1.setup_intents.retrieve(stripe_id)))

    def retrieve_card(self, stripe_payment_method_id: str) -> CardSnapshot:
        raw = self._read(lambda: self._client.v1.payment_methods.retrieve(stripe_payment_method_id))
        try:
            return read_card(raw)
        except (KeyError, TypeError):
            raise NotACardError(f"{stripe_payment_method_id} is not a card") from None

    def find_missing(self, stripe_customer_id: str, stripe_payment_method_id: str) -> Missing | None:
        """Return what prevents a charge of this customer's card: at most two reads. None if nothing does."""
        try:
            if self.retrieve_card(stripe_payment_method_id).stripe_customer_id == stripe_customer_id:
                return None
            is_card_known = True
        except (GatewayMissingError, NotACardError):
            is_card_known = False
        try:
            customer = self._read(lambda: self._client.v1.customers.retrieve(stripe_customer_id))
        except GatewayMissingError:
            return Missing.CUSTOMER if is_card_known else Missing.BOTH_UNKNOWN
        return Missing.CUSTOMER if customer.get("deleted") else Missing.CARD

    def retrieve_charge(self, stripe_id: str) -> ChargeReadBack:
        return read_charge(self._read(lambda: self._client.v1.charges.retrieve(stripe_id)))

    def retrieve_dispute(self, stripe_id: str) -> DisputeSnapshot:
        return read_dispute(self._read(lambda: self._client.v1.disputes.retrieve(stripe_id)))

    def retrieve_event(self, stripe_event_id: str) -> Mapping[str, Any]:
        """Return an event as it was sent, for an operator to read; Stripe keeps events for 30 days."""
        return self._read(lambda: self._client.v1.events.retrieve(stripe_event_id))

    def list_charges(self, created_from: datetime, created_until: datetime) -> Iterator[ChargeReadBack]:
        """Yield the charges created in [from, until), newest first, a page at a time."""
        page = self.charge_page(created_from, created_until, None)
        yield from page.items
        while page.after is not None:
            page = self.charge_page(created_from, created_until, page.after)
            yield from page.items

    def charge_page(
        self, created_from: datetime, created_until: datetime, after: str | None
    ) -> Page[ChargeReadBack]:
        """Return a page of the charges created in [from, until), newest first."""
        raw = self._page("/v1/charges", created_from, created_until, after)
        return Page(tuple(map(read_charge, raw["data"])), _next_page(raw))

    def payment_intent_page(
        self, created_from: datetime, created_until: datetime, after: str | None
    ) -> Page[PaymentIntentSnapshot]:
        """Return a page of the PaymentIntents created in [from, until), newest first."""
        raw = self._page("/v1/payment_intents", created_from, created_until, after)
        snapshot = tuple(one for one in map(read_payment_intent, raw["data"]) if one is not None)
        return Page(snapshot, _next_page(raw))

    def event_page(
        self, types: Collection[str], created_from: datetime, created_until: datetime, after: str | None
    ) -> Page[StripeEventSnapshot]:
        """Return a page of the events of these types (at most 20) created in [from, until), newest first.

        Stripe keeps events for 30 days (docs.stripe.com/api/events/list).
        """
        raw = self._page("/v1/events", created_from, created_until, after, types=sorted(types))
        return Page(tuple(map(read_event, raw["data"])), _next_page(raw))

    def has_customer_before(self, created_until: datetime) -> bool:
        """Whether the account has a customer created before this instant, so that it was in use then."""
        created = {"lt": int(created_until.timestamp())}
        raw = self._read_plain(lambda: self._client.raw_request("get", "/v1/customers", created=created, limit=1))
        return bool(raw["data"])

    def check_key(self) -> str:
        """Return the id of the account that the key belongs to."""
        return str(self._send(lambda: self._client.v1.accounts.retrieve_current().last_response)["id"])

    def _stopped(self) -> str | None:
        """Return why nothing is sent: the key is another account's, or an outage hides whose it is.

        A key that Stripe refuses to tell about passes: the request itself is refused then, or allowed.
        """
        if self._why_not is None:
            return None
        try:
            why = self._why_not(self.check_key())
        except (GatewayRefusedError, GatewayMissingError):
            return None
        except GatewayUnavailableError as error:
            return f"Stripe doesn't say whose the key is: {error}"
        if why is None:
            self._why_not = None
        return why

    def _ask(self, send: Callable[[], stripe.StripeObject]) -> Answer:
        stopped = self._stopped()
        if stopped is not None:
            return Answer(OUTCOMES[Problem.KEY_REFUSED, status_of(None)], stopped, needs_attention=True)
        self._limit.wait()
        try:
            raw, request_id = _raw(send())
        except stripe.StripeError as error:
            return _answer_of_error(error)
        except Exception as error:  # whatever was raised while parsing, we don't know what Stripe did
            return Answer(Outcome.UNKNOWN, f"{type(error).__name__} while reading the answer", needs_attention=True)
        payment_intent = read_payment_intent(raw)
        problem = Problem.NONE if payment_intent is not None else Problem.UNREADABLE
        return Answer(
            outcome=OUTCOMES[problem, status_of(payment_intent)],
            reason=f"PaymentIntent is {payment_intent.status}" if payment_intent else "the answer can't be read",
            payment_intent=payment_intent,
            decline=payment_intent.last_error if payment_intent else None,
            charge_id=payment_intent.latest_charge_id if payment_intent else None,
            http_status=200,
            request_id=request_id,
            needs_attention=problem in NEEDS_ATTENTION,
        )

    def _page(
        self, path: str, created_from: datetime, created_until: datetime, after: str | None, **filters: Any
    ) -> Mapping[str, Any]:
        """Parse one page as plain JSON: building the SDK's objects took most of the time."""
        created = {"gte": int(created_from.timestamp()), "lt": int(created_until.timestamp())}
        parameters: dict[str, Any] = {"created": created, "limit": PAGE, **filters}
        if after is not None:
            parameters["starting_after"] = after
        return self._read_plain(lambda: self._client.raw_request("get", path, **parameters))

    def _read(self, send: Callable[[], stripe.StripeObject]) -> Mapping[str, Any]:
        return self._read_plain(lambda: send().last_response)

    def _read_plain(self, send: Callable[[], Any]) -> Mapping[str, Any]:
        stopped = self._stopped()
        if stopped is not None:
            raise GatewayUnavailableError(stopped)
        return self._send(send)

    def _send(self, send: Callable[[], Any]) -> Mapping[str, Any]:
        self._limit.wait()
        try:
            return _json(send())
        except TypeError as error:
            raise GatewayUnavailableError(str(error)) from error
        except stripe.InvalidRequestError as error:
            if error.http_status == 404:
                raise GatewayMissingError(_message(error)) from None
            raise GatewayRefusedError(_message(error), http_status=error.http_status) from error
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            raise GatewayRefusedError(_message(error), http_status=error.http_status) from error
        except stripe.StripeError as error:
            raise GatewayUnavailableError(_message(error)) from error


class RateLimit:
    """Keeps one process below its share of the processor's rate limit, so that 429 stays rare.

    Allows `per_s` calls a second, in order of arrival; a burst of one second's worth may go at once.
    """

    def __init__(
        self,
        per_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gap_s = 1.0 / per_s
        self._burst_s = 1.0
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next_s = monotonic()

    def wait(self) -> None:
        """Return when the caller may send its request."""
        with self._lock:
            now = self._monotonic()
            slot = max(self._next_s, now - self._burst_s)
            self._next_s = slot + self._gap_s
        if slot > now:
            self._sleep(slot - now)


def _next_page(raw: Mapping[str, Any]) -> str | None:
    return str(raw["data"][-1]["id"]) if raw.get("has_more") and raw["data"] else None


def _direct_session() -> requests.Session:
    """A session for an explicitly configured host: it ignores the environment's proxies."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
    return session


def make_gateways(
    settings: Settings, why_not: Callable[[str, str], str | None] | None = None
) -> dict[str, ProcessorGateway]:
    """Make a gateway for each coverage that has a key.

    `why_not(coverage, account_id)` says why the key's account must not be used for the coverage; None if it may.
    """
    return {
        coverage: StripeGateway(
            key.get_secret_value(),
            api_base=settings.stripe_api_base,
            requests_per_s=settings.stripe_requests_per_s,
            connect_timeout_s=settings.stripe_connect_timeout_s,
            read_timeout_s=settings.stripe_read_timeout_s,
            why_not=None if why_not is None else partial(why_not, coverage),
        )
        for coverage, key in settings.stripe_api_keys.items()
    }


def _raw(answered: stripe.StripeObject) -> tuple[Mapping[str, Any], str | None]:
    response = answered.last_response
    return _json(response), response.request_id if response else None


def _json(response: Any) -> Mapping[str, Any]:
    if response is None or not isinstance(response.data, Mapping):
        raise TypeError("the answer is not a JSON object")
    data: Mapping[str, Any] = response.data
    return data


def _answer_of_error(error: stripe.StripeError) -> Answer:
    body = error.json_body.get("error") if isinstance(error.json_body, Mapping) else None
    details: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    payment_intent = read_payment_intent(details.get("payment_intent"))
    decline = read_decline(details)
    problem = _problem(error, decline)
    outcome = OUTCOMES[problem, status_of(payment_intent)]
    charge = details.get("charge") or (payment_intent.latest_charge_id if payment_intent else None)
    return Answer(
        outcome=outcome,
        reason=f"{problem}: {decline.decline_code or decline.code or details.get('param') or type(error).__name__}",
        payment_intent=payment_intent,
        decline=decline if problem in (Problem.CARD, Problem.AUTHENTICATION) else None,
        charge_id=None if charge is None else str(charge),
        http_status=error.http_status,
        error_type=details.get("type"),
        code=details.get("code"),
        request_id=error.request_id,
        needs_attention=problem in NEEDS_ATTENTION and outcome is not Outcome.SUCCEEDED,
        is_key_spent=problem is Problem.KEY_MISUSED or _is_replayed(error),
        is_refused=problem is Problem.REFUSED and outcome is Outcome.NOT_SENT,
    )


def _is_replayed(error: stripe.StripeError) -> bool:
    """Whether Stripe had saved this error under the key (docs.stripe.com/api/idempotent_requests)."""
    headers = {str(name).lower(): value for name, value in (error.headers or {}).items()}
    return headers.get("idempotent-replayed") == "true"


def _problem(error: stripe.StripeError, decline: Decline) -> Problem:
    if isinstance(error, stripe.APIConnectionError):
        return Problem.NOT_CONNECTED if _never_connected(error) else Problem.NO_ANSWER
    if decline.code == "idempotency_key_in_use":
        return Problem.KEY_IN_USE
    if decline.code == "lock_timeout":
        return Problem.RATE_LIMITED
    if decline.code == "payment_intent_unexpected_state":
        return Problem.UNEXPECTED_STATE
    for kind, problem in _PROBLEM_OF_ERROR:
        if isinstance(error, kind):
            return card_problem(decline.code, decline.decline_code) if problem is Problem.CARD else problem
    if error.http_status == 409:
        return Problem.KEY_IN_USE
    return Problem.SERVER_ERROR if (error.http_status or 0) >= 500 else Problem.UNREADABLE


def _never_connected(error: stripe.APIConnectionError) -> bool:
    """Whether the connection itself was refused or timed out, so that no byte of the request was sent."""
    cause = error.__cause__
    if isinstance(cause, requests.exceptions.ConnectTimeout):
        return True
    reason = getattr(cause.args[0], "reason", None) if cause is not None and cause.args else None
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)


def _message(error: stripe.StripeError) -> str:
    return f"{type(error).__name__}: {error.user_message or 'no message'}"
