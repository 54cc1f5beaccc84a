"""Stripe's webhooks: verify, store, respond. A worker applies the event later.

Stripe resends for days every event that didn't get a 2xx, so the response is 200 only after the row is committed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from shared.db.session import in_transaction
from shared.failpoints import Failpoint, reach
from shared.gateway.port import BadSignatureError, StripeEventSnapshot, WebhookVerifier
from shared.gateway.stripe_event_types import ECHO_EVENT_TYPES, HANDLED_EVENT_TYPES
from shared.gateway.stripe_webhooks import UnreadableEventError
from shared.messaging.broker import Enqueue
from shared.messaging.jobs import ApplyStripeEvent
from shared.operations.stripe_event_intake import store_stripe_event

log = structlog.get_logger()

#: Stripe's events are about 10 kB; this leaves room for the largest and limits the memory a stranger can use.
MAX_BODY_BYTES = 512 * 1024
#: Seconds to receive a body. Stripe sends it at once; a sender that drips bytes may not hold a connection.
BODY_TIMEOUT_S = 10.0
#: Threads that store events, each with a database connection: one insert takes about a millisecond.
STORE_THREADS = 4
#: Requests that may wait for such a thread. More mean that the database hangs: Stripe should resend later.
MAX_WAITING = 200
#: Threads that enqueue jobs, and jobs running or waiting for one. Beyond that (Redis is down), the sweep enqueues.
ENQUEUE_THREADS = 2
MAX_ENQUEUES = 50

#: The database is down, or too busy to give a connection.
DATABASE_UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeoutError)


@dataclass(frozen=True)
class Endpoint:
    """One coverage's webhook: its valid secrets, and whether its Stripe key moves real money."""

    coverage: str
    secrets: Sequence[str]
    is_live: bool

    def __repr__(self) -> str:
        return f"Endpoint({self.coverage!r}, {len(self.secrets)} secrets, is_live={self.is_live})"


class WebhookReceiver:
    """`POST /webhooks/stripe/{coverage}`."""

    def __init__(
        self, endpoints: Mapping[str, Endpoint], engine: Engine, enqueue: Enqueue, verify: WebhookVerifier
    ) -> None:
        self._endpoints = endpoints
        self._engine = engine
        self._enqueue = enqueue
        self._verify = verify
        self._store_limiter = anyio.CapacityLimiter(STORE_THREADS)
        self._enqueue_limiter = anyio.CapacityLimiter(ENQUEUE_THREADS)
        self._pending_enqueues = 0

    async def receive(self, request: Request) -> Response:
        """Return 200 once the event is stored, 4xx if it must not be stored, 503 to make Stripe resend it."""
        endpoint = self._endpoints.get(request.path_params["coverage"])
        if endpoint is None:
            return PlainTextResponse("there is no webhook for this coverage\n", 404)
        body = await _read_body(request)
        if isinstance(body, Response):
            return body
        try:
            event = self._verify(body, request.headers.get("stripe-signature", ""), endpoint.secrets)
        except (BadSignatureError, UnreadableEventError) as error:
            log.warning("webhook.refused", coverage=endpoint.coverage, why=str(error), bytes=len(body))
            return PlainTextResponse(f"{_public(error)}\n", 400)
        if event.is_livemode is not endpoint.is_live:
            return _wrong_mode(endpoint, event)
        return await self._store(endpoint.coverage, event)

    async def _store(self, coverage: str, event: StripeEventSnapshot) -> Response:
        if self._store_limiter.statistics().tasks_waiting >= MAX_WAITING:
            return _ask_to_resend(coverage, event, "too many events wait for the database")
        try:
            is_new = await anyio.to_thread.run_sync(
                store_event, self._engine, coverage, event, limiter=self._store_limiter
            )
        except DATABASE_UNAVAILABLE as error:
            return _ask_to_resend(coverage, event, type(error.__cause__ or error).__name__)
        is_handled = event.type in HANDLED_EVENT_TYPES
        log.info(
            "webhook.stored" if is_new else "webhook.known",
            coverage=coverage,
            stripe_event_id=event.stripe_event_id,
            type=event.type,
            is_handled=is_handled,
        )
        # A resent event needs no job: its row is applied already, or the sweep enqueues it.
        job = ApplyStripeEvent(coverage, event.stripe_event_id)
        task = (
            BackgroundTask(self._enqueue_later, job)
            if is_new and is_handled and event.type not in ECHO_EVENT_TYPES
            else None
        )
        return Response(status_code=200, background=task)

    async def _enqueue_later(self, job: ApplyStripeEvent) -> None:
        """Enqueue after the response, so that a hanging Redis neither delays Stripe nor fills the memory."""
        if self._pending_enqueues >= MAX_ENQUEUES:
            log.warning("webhook.bell_skipped", consequence="the sweep enqueues the job")
            return
        reach(Failpoint.WEBHOOK_ANSWERED)
        self._pending_enqueues += 1
        try:
            await anyio.to_thread.run_sync(self._enqueue, [job], limiter=self._enqueue_limiter)
        finally:
            self._pending_enqueues -= 1


def store_event(engine: Engine, coverage: str, event: StripeEventSnapshot) -> bool:
    """Store the event in a transaction of its own; False if it exists."""
    # Stripe repeats a delivery that is not stored, so this waits for no lock and no outage.
    return in_transaction(
        engine,
        lambda connection: store_stripe_event(connection, coverage, event),
        insist_for_s=0.0,
        step="webhook.store",
    )


async def _read_body(request: Request) -> bytes | Response:
    """Return the raw body, or the error response if it is too large, too slow or cut off."""
    too_large = PlainTextResponse(f"the body is larger than {MAX_BODY_BYTES} bytes\n", 413)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 12 or int(announced) > MAX_BODY_BYTES):
        return too_large
    chunks: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    return too_large
                chunks.append(chunk)
    except TimeoutError:
        return PlainTextResponse(f"the body took longer than {BODY_TIMEOUT_S:g} s\n", 408)
    except ClientDisconnect:
        return PlainTextResponse("the body was cut off\n", 400)
    return b"".join(chunks)


def _wrong_mode(endpoint: Endpoint, event: StripeEventSnapshot) -> Response:
    """Refuse the event and log an error: Stripe's dashboard shows the 400 to the owner of the endpoint."""
    log.error(
        "webhook.wrong_mode",
        coverage=endpoint.coverage,
        stripe_event_id=event.stripe_event_id,
        event_mode="live" if event.is_livemode else "test",
        key_mode="live" if endpoint.is_live else "test",
        what_to_do="compare STRIPE_API_KEYS and STRIPE_WEBHOOK_SECRETS of this coverage: both live or both test",
    )
    return PlainTextResponse("live and test mode are mixed up: the event isn't of this coverage's mode\n", 400)


def _ask_to_resend(coverage: str, event: StripeEventSnapshot, why: str) -> Response:
    log.error("webhook.not_stored", coverage=coverage, stripe_event_id=event.stripe_event_id, why=why)
    return PlainTextResponse("not stored; send it again\n", 503, headers={"Retry-After": "5"})


def _public(error: BadSignatureError | UnreadableEventError) -> str:
    """The message for the sender: the reason is given only for a validly signed event."""
    return "the signature is not valid" if isinstance(error, BadSignatureError) else str(error)
