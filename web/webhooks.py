"""Stripe's webhooks: check, store, answer. What an event means is found out later, by a worker.

Stripe repeats for days whatever isn't answered with 2xx, so an answer is 200 only after the row is committed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread
import structlog
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from shared.db.session import in_transaction
from shared.db.tables.system import stripe_events
from shared.domain.states import StripeEventState
from shared.failpoints import Failpoint, reach
from shared.gateway.port import BadSignatureError, StripeEventSnapshot, WebhookVerifier
from shared.gateway.stripe_event_types import ECHO_EVENT_TYPES, HANDLED_EVENT_TYPES
from shared.gateway.stripe_webhooks import UnreadableEventError
from shared.messaging.broker import Enqueue
from shared.messaging.jobs import ApplyStripeEvent

log = structlog.get_logger()

#: Stripe's events are some 10 kB; this leaves room for the largest and bounds what a stranger can make us hold.
MAX_BODY_BYTES = 512 * 1024
#: Seconds to receive a body in. Stripe sends it in one go; who drips bytes gets no connection of ours.
BODY_TIMEOUT_S = 10.0
#: Threads that store, each with its database connection: one insert takes about a millisecond.
STORERS = 4
#: Requests that may wait for a storer. More means that the database hangs: Stripe had better send again.
MAX_WAITING = 200
#: Rings under way at once, and waiting. With Redis away beyond that, the sweep rings instead.
RINGERS = 2
MAX_RINGS = 50

#: The database is away, or too busy to give us a connection.
DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeoutError)


@dataclass(frozen=True)
class Endpoint:
    """One coverage's webhook: the secrets that are good now, and whether its Stripe key moves real money."""

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
        self._storers = anyio.CapacityLimiter(STORERS)
        self._ringers = anyio.CapacityLimiter(RINGERS)
        self._rings = 0

    async def receive(self, request: Request) -> Response:
        """Answer 200 once the event is stored; 4xx for what isn't ours to store, 503 for "send it again"."""
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
        if self._storers.statistics().tasks_waiting >= MAX_WAITING:
            return _send_again(coverage, event, "too many events wait for the database")
        try:
            is_new = await anyio.to_thread.run_sync(
                store_event, self._engine, coverage, event, limiter=self._storers
            )
        except DATABASE_AWAY as error:
            return _send_again(coverage, event, type(error.__cause__ or error).__name__)
        is_handled = event.type in HANDLED_EVENT_TYPES
        log.info(
            "webhook.stored" if is_new else "webhook.known",
            coverage=coverage,
            stripe_event_id=event.stripe_event_id,
            type=event.type,
            is_handled=is_handled,
        )
        # Who sends again what we have needs no bell: the row is applied, or the sweep knows of it.
        job = ApplyStripeEvent(coverage, event.stripe_event_id)
        task = (
            BackgroundTask(self._ring_soon, job)
            if is_new and is_handled and event.type not in ECHO_EVENT_TYPES
            else None
        )
        return Response(status_code=200, background=task)

    async def _ring_soon(self, job: ApplyStripeEvent) -> None:
        """Ring after the answer, so that a Redis which hangs costs Stripe no second and us no memory."""
        if self._rings >= MAX_RINGS:
            log.warning("webhook.bell_skipped", consequence="the sweep rings instead")
            return
        reach(Failpoint.WEBHOOK_ANSWERED)
        self._rings += 1
        try:
            await anyio.to_thread.run_sync(self._enqueue, [job], limiter=self._ringers)
        finally:
            self._rings -= 1


def store_event(engine: Engine, coverage: str, event: StripeEventSnapshot) -> bool:
    """Store the event under Stripe's own id; False if we have it already. Types without a handler are ignored."""
    state = StripeEventState.RECEIVED if event.type in HANDLED_EVENT_TYPES else StripeEventState.IGNORED
    insertion = (
        insert(stripe_events)
        .values(
            coverage=coverage,
            stripe_event_id=event.stripe_event_id,
            type=event.type,
            stripe_object_id=event.stripe_object_id,
            is_livemode=event.is_livemode,
            stripe_created_at=event.created_at,
            state=state,
        )
        .on_conflict_do_nothing()
        .returning(stripe_events.c.stripe_event_id)
    )
    # Stripe repeats a delivery that is not stored, so this waits for no lock and no outage.
    stored = in_transaction(
        engine,
        lambda connection: connection.execute(insertion).one_or_none(),
        insist_for_s=0.0,
        step="webhook.store",
    )
    return stored is not None


async def _read_body(request: Request) -> bytes | Response:
    """Read the raw body, or the answer to one that is too large, too slow or cut off."""
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
    """Refuse loudly: Stripe shows the 400 to whoever set the endpoint up, and nothing is applied."""
    log.error(
        "webhook.wrong_mode",
        coverage=endpoint.coverage,
        stripe_event_id=event.stripe_event_id,
        event_mode="live" if event.is_livemode else "test",
        key_mode="live" if endpoint.is_live else "test",
        what_to_do="compare STRIPE_API_KEYS and STRIPE_WEBHOOK_SECRETS of this coverage: both live or both test",
    )
    return PlainTextResponse("live and test mode are mixed up: the event isn't of this coverage's mode\n", 400)


def _send_again(coverage: str, event: StripeEventSnapshot, why: str) -> Response:
    log.error("webhook.not_stored", coverage=coverage, stripe_event_id=event.stripe_event_id, why=why)
    return PlainTextResponse("not stored; send it again\n", 503, headers={"Retry-After": "5"})


def _public(error: BadSignatureError | UnreadableEventError) -> str:
    """What a stranger is told: nothing that helps to guess; what is signed may know why."""
    return "the signature is not valid" if isinstance(error, BadSignatureError) else str(error)
