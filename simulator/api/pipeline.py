"""The steps of a request to Stripe's API: API key, route, idempotency, clock, apply and commit, answer.

A plain ASGI application without a framework: in a benchmark, thousands of charges a second take this path. Applying
is synchronous, so that requests can't interleave inside a change.
"""

import asyncio
import base64
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from simulator.api.call import Call, Processor
from simulator.api.errors import Answer, ApiError, bad_parameter, internal_error, unauthorized, unknown_url
from simulator.api.forms import decode_form, typed_parameters
from simulator.api.idempotency import Idempotency, SavedAnswer
from simulator.api.lists import expand
from simulator.api.rate_limit import RateLimit
from simulator.api.request_log import CUT, RequestLog
from simulator.api.routes import Route, find_route
from simulator.api.views import API_VERSION
from simulator.business_time import BusinessTime
from simulator.faults.hooks import Arrival, CutConnection, FaultHooks, NoFaults

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 1_000_000  # far above any real form; limits the memory of one request
FLUSH_POLLS = 2_000  # a millisecond apart; a client that hasn't read half the body by then is cut all the same
_KEY = re.compile(r"sk_test_sim_([a-z0-9_]{1,40})")
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True)
class Wire:
    """An answer as bytes, with the headers of its own."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]
    is_replay: bool = False
    content_type: str = "application/json"
    is_cut: bool = False


@dataclass
class StripeApi:
    """The ASGI application under `/v1`. `latency_ms` delays every answer, after it was committed."""

    processor: Processor
    time: BusinessTime
    idempotency: Idempotency
    requests: RequestLog
    accounts: frozenset[str] | None = None
    faults: FaultHooks = field(default_factory=NoFaults)
    latency_ms: float = 0.0
    rate_limit: RateLimit = field(default_factory=RateLimit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived_ns = time.time_ns()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"]
        request_id = self.processor.mint.new("req")
        account: str | None = None
        key = headers.get("idempotency-key") or None
        try:
            body = await _read_body(receive)
            account = self._authenticate(headers)
            self.rate_limit.admit(account)
            route, ids = _route(scope["method"], path, headers)
            form = (body or scope["query_string"]).decode("utf-8", "replace")
            arrival = Arrival(
                arrived_ns, scope["method"], path, account, key, form, request_id, route.operation, ids
            )
            wire = await self._answer(arrival, route)
        except ApiError as error:
            wire = _wire(error.answer)
        except CutConnection:
            self.requests.note(arrived_ns, scope["method"], path, account, key, CUT, False)
            await _cut(scope["simulator.transport"])
            return
        except Exception:
            log.exception("request_broke", request_id=request_id, path=path)
            wire = _wire(internal_error(request_id))
        self.requests.note(arrived_ns, scope["method"], path, account, key, wire.status, wire.is_replay)
        if wire.is_cut:
            await _send_half(send, wire, request_id, key, scope["simulator.transport"])
        else:
            await _send(send, wire, request_id, key)

    async def _answer(self, arrival: Arrival, route: Route) -> Wire:
        replay = None
        if is_held := arrival.method == "POST" and arrival.idempotency_key is not None:
            replay = self.idempotency.find(arrival)
            if replay is None:
                self.idempotency.hold(arrival)
            else:
                arrival = replace(arrival, is_replay=True)
        try:
            if (instead := await self.faults.before_apply(arrival)) is not None:
                return _wire(instead)
            if replay is not None:
                return await self._replayed(arrival, replay)
            return await self._fresh_answer(arrival, route)
        finally:
            if is_held and replay is None:
                self.idempotency.release(arrival)
            self.faults.finished(arrival)

    async def _replayed(self, arrival: Arrival, replay: SavedAnswer) -> Wire:
        original = (("Idempotent-Replayed", "true"), ("Original-Request", replay.request_id))
        wire = Wire(replay.status, replay.body, original, is_replay=True)
        return await self._after_faults(arrival, Answer(replay.status, json.loads(replay.body), original), wire)

    async def _fresh_answer(self, arrival: Arrival, route: Route) -> Wire:
        now = await self.time.now() if route.method == "POST" or route.reads_time else 0
        try:
            answer, encoded = self._apply(arrival, route, now)
            wire = Wire(answer.status, encoded, answer.headers)
        except ApiError as error:
            answer, wire = error.answer, _wire(error.answer)
        self.processor.outbox.wake_senders()
        if self.latency_ms:
            await asyncio.sleep(self.latency_ms / 1000)
        return await self._after_faults(arrival, answer, wire)

    async def _after_faults(self, arrival: Arrival, answer: Answer, wire: Wire) -> Wire:
        """Return the answer to send: `wire`, unless a fault changes it."""
        changed = await self.faults.before_answer(arrival, answer)
        if changed is answer:
            return wire
        if isinstance(changed, Answer):
            return replace(_wire(changed), is_replay=wire.is_replay)
        body = wire.body if changed.body is None else changed.body
        kind = "application/json" if changed.body is None else "text/html"
        return replace(wire, body=body, content_type=kind, is_cut=changed.is_cut)

    def _apply(self, arrival: Arrival, route: Route, now: int) -> tuple[Answer, bytes]:
        """Apply the request and save its answer in one transaction; a refusal rolls back everything but itself."""
        if route.method == "GET":
            answer = self._run(arrival, route, now)
            return answer, _encoded(answer)
        try:
            with self.processor.store.transaction():
                answer = self._run(arrival, route, now)
                answer = self.faults.before_commit(arrival, answer)
                return answer, self._save(arrival, answer)
        except ApiError as error:
            if not error.is_saved:
                raise
            with self.processor.store.transaction():
                return error.answer, self._save(arrival, error.answer)

    def _run(self, arrival: Arrival, route: Route, now: int) -> Answer:
        params = typed_parameters(decode_form(arrival.form), route.params)
        for name in route.required:
            if params.get(name) is None:
                raise bad_parameter(f"Missing required param: {name}.", name, "parameter_missing")
        call = Call(
            processor=self.processor,
            account=arrival.account,
            now=now,
            params=params,
            ids=arrival.ids,
            path=arrival.path,
            request_id=arrival.request_id,
            idempotency_key=arrival.idempotency_key,
        )
        result = self.faults.apply(arrival, call, route.handle)
        if isinstance(result, Answer):
            return result
        if paths := params.get("expand"):
            expand(call, result, paths)
        return Answer(200, result)

    def _save(self, arrival: Arrival, answer: Answer) -> bytes:
        body = _encoded(answer)
        if arrival.idempotency_key:
            self.idempotency.save(arrival, SavedAnswer(answer.status, body, arrival.request_id))
        return body

    def _authenticate(self, headers: Mapping[str, str]) -> str:
        """The key names the account: `sk_test_sim_<account>`, as a bearer or as basic auth's user."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            given = base64.b64decode(given, validate=False).decode("utf-8", "replace").partition(":")[0]
        if not given:
            raise unauthorized(
                "You did not provide an API key: send `Authorization: Bearer sk_test_sim_<account>`."
            )
        if given.startswith(("sk_live_", "rk_live_")):
            raise unauthorized("A live key was sent to the simulator. It takes sk_test_sim_<account> keys only.")
        matched = _KEY.fullmatch(given)
        if matched is None or (self.accounts is not None and matched[1] not in self.accounts):
            raise unauthorized(f"Invalid API Key provided: {given[:8]}***. Keys here are sk_test_sim_<account>.")
        return matched[1]


def _encoded(answer: Answer) -> bytes:
    return _encode(answer.body).encode()


def _wire(answer: Answer) -> Wire:
    return Wire(answer.status, _encoded(answer), answer.headers)


async def _read_body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise CutConnection(f"a request of more than {MAX_BODY_BYTES} bytes")
    return body


def _route(method: str, path: str, headers: Mapping[str, str]) -> tuple[Route, tuple[str, ...]]:
    found = find_route(method, path)
    if found is None:
        raise unknown_url(method, path)
    if headers.get("stripe-version", API_VERSION) != API_VERSION:
        raise bad_parameter(f"The simulator speaks Stripe-Version {API_VERSION} only.", "Stripe-Version")
    return found


async def _send(send: Send, wire: Wire, request_id: str, key: str | None) -> None:
    await _send_head(send, wire, request_id, key)
    await send({"type": "http.response.body", "body": wire.body})


async def _send_half(
    send: Send, wire: Wire, request_id: str, key: str | None, transport: asyncio.Transport
) -> None:
    """Announce the whole body, send half of it, and cut the connection once that half is sent."""
    await _send_head(send, wire, request_id, key)
    await send({"type": "http.response.body", "body": wire.body[: len(wire.body) // 2], "more_body": True})
    for _ in range(FLUSH_POLLS):
        await asyncio.sleep(0.001)
        if not transport.get_write_buffer_size():
            break
    await _cut(transport)


async def _cut(transport: asyncio.Transport) -> None:
    """Drop the connection, and let the server notice that before it expects the rest of the answer."""
    transport.abort()
    for _ in range(3):  # iterations of the loop: uvloop reports a lost connection in the next one
        await asyncio.sleep(0)


async def _send_head(send: Send, wire: Wire, request_id: str, key: str | None) -> None:
    headers = [
        ("Content-Type", wire.content_type),
        ("Content-Length", str(len(wire.body))),
        ("Request-Id", request_id),
        ("Stripe-Version", API_VERSION),
        *wire.headers,
    ]
    if key:
        headers.append(("Idempotency-Key", key))
    raw: list[Any] = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    await send({"type": "http.response.start", "status": wire.status, "headers": raw})
