"""`/_sim`: control endpoints, for what users, banks and tests do. JSON in, JSON out."""

import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from simulator.api import disputes, payment_intents, payment_methods, setup_intents
from simulator.api.call import Call
from simulator.api.errors import Answer, ApiError, bad_parameter, error_body, missing
from simulator.api.pipeline import StripeApi
from simulator.api.views import API_VERSION, Json
from simulator.issuer import story_cards
from simulator.issuer.cards import BRANDS, EXP_MONTH, EXP_YEAR
from simulator.issuer.stories import StoryError, story_from_json
from simulator.issuer.story_cards import StoryCard
from simulator.store.records import KINDS, PaymentIntent, PaymentMethod, SetupIntent
from simulator.webhooks.delivery import WebhookSenders
from simulator.webhooks.events import EVENT_TYPES, Endpoint

_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
LEDGER_PAGE = 1_000  # lines read at a time: limits memory, and lets other requests run in between

Handle = Callable[[Request], Awaitable[Response]]


@dataclass
class Admin:
    """The endpoints, on the same processor as Stripe's API."""

    api: StripeApi
    webhooks: WebhookSenders

    def routes(self) -> list[Route]:
        table: tuple[tuple[str, str, Handle], ...] = (
            ("GET", "/health", self.health),
            ("GET", "/ledger", self.ledger),
            ("POST", "/cards", self.make_card),
            ("GET", "/cards/{card}", self.show_card),
            ("POST", "/cards/{card}/story", self.set_story),
            ("POST", "/register_card", self.register_card),
            ("POST", "/payment_methods/{id}/automatic_update", self.automatic_update),
            ("POST", "/payment_intents/{id}/cancel", self.cancel_payment_intent),
            ("POST", "/intents/{id}/authenticate", self.authenticate),
            ("POST", "/charges/{id}/refund", self.refund),
            ("POST", "/charges/{id}/dispute", self.dispute),
            ("POST", "/disputes/{id}/close", self.close_dispute),
            ("GET", "/webhooks", self.webhook_stats),
            ("GET", "/webhook_endpoints", self.list_endpoints),
            ("POST", "/webhook_endpoints", self.put_endpoint),
            ("DELETE", "/webhook_endpoints/{id}", self.remove_endpoint),
            ("POST", "/latency", self.set_latency),
            ("POST", "/idempotency/prune", self.prune),
            ("GET", "/requests/stats", self.request_stats),
            ("GET", "/requests", self.last_requests),
        )
        return [Route(f"/_sim{path}", guarded(handle), methods=[method]) for method, path, handle in table]

    # -- the ledger

    async def health(self, request: Request) -> Response:  # noqa: ARG002
        now = datetime.fromtimestamp(await self.api.time.now(), UTC)
        counts = {table: self.api.processor.store.count(kind) for table, kind in KINDS.items()}
        body = {"status": "ok", "api_version": API_VERSION, "business_time": now.isoformat(), "objects": counts}
        return JSONResponse(body)

    async def ledger(self, request: Request) -> Response:
        account = request.query_params.get("account")
        return StreamingResponse(self._ledger_lines(account), media_type="application/x-ndjson")

    async def _ledger_lines(self, account: str | None) -> AsyncIterator[str]:
        seq = 0
        while lines := self.api.processor.store.ledger_after(seq, account, LEDGER_PAGE):
            yield "".join(line + "\n" for _, line in lines)
            seq = lines[-1][0]

    # -- cards

    async def make_card(self, request: Request) -> Response:
        body = await read_json(request)
        account, brand = _required(body, "account"), body.get("brand", "visa")
        if brand not in BRANDS:
            raise bad_parameter(f"Unknown brand {brand!r}; use one of {', '.join(sorted(BRANDS))}", "brand")
        face = {
            "brand": brand,
            "last4": body.get("last4") or f"{secrets.randbelow(10_000):04d}",
            "exp_month": body.get("exp_month", EXP_MONTH),
            "exp_year": body.get("exp_year", EXP_YEAR),
        }
        processor = self.api.processor
        card = story_cards.make(processor.store, processor.mint, account, face, _story(body))
        return JSONResponse(card.to_json())

    async def show_card(self, request: Request) -> Response:
        account = request.query_params.get("account", "")
        card, _ = self._find_card(account, request.path_params["card"])
        if card is None:
            raise missing("card with a story", request.path_params["card"])
        return JSONResponse(card.to_json())

    async def set_story(self, request: Request) -> Response:
        body = await read_json(request)
        account = _required(body, "account")
        card, method = self._find_card(account, request.path_params["card"])
        if card is None and method is None:
            raise missing("card", request.path_params["card"])
        fingerprint = card.fingerprint if card else method.fingerprint if method else ""
        told = story_cards.tell(self.api.processor.store, account, fingerprint, _face(card, method), _story(body))
        return JSONResponse(told.to_json())

    def _find_card(self, account: str, named: str) -> tuple[StoryCard | None, PaymentMethod | None]:
        """Find a card by `pm_story_…` token, PaymentMethod id or fingerprint."""
        store = self.api.processor.store
        if named.startswith("pm_story_"):
            return story_cards.by_token(store, account, named), None
        if named.startswith("pm_"):
            method = store.get(PaymentMethod, account, named)
            return (story_cards.find(store, account, method.fingerprint) if method else None), method
        return story_cards.find(store, account, named), None

    # -- customers and networks

    async def register_card(self, request: Request) -> Response:
        """Act as a customer's browser: a confirmed SetupIntent, authenticated if the issuer asks for it."""
        body = await read_json(request)
        metadata = {str(name): str(value) for name, value in (body.get("metadata") or {}).items()}
        params = {
            "customer": _required(body, "customer"),
            "payment_method": body.get("card", "pm_card_visa"),
            "allowed_payment_method_types": ["card"],
            "usage": "off_session",
            "metadata": metadata,
            "confirm": True,
        }
        call = await self._call(body, **params)
        with call.store.transaction():
            answer = setup_intents.create_setup_intent(call)
            if not isinstance(answer, Answer) and answer["status"] == "requires_action":
                made = call.named(SetupIntent, answer["id"], "setup_intent")
                answer = setup_intents.authenticate(call, made, succeeds=True)
        self.api.processor.outbox.wake_senders()
        if isinstance(answer, Answer):
            return JSONResponse(answer.body, answer.status)
        method = call.named(PaymentMethod, answer["payment_method"], "payment_method")
        return JSONResponse(
            {
                "setup_intent": answer["id"],
                "payment_method": method.id,
                "customer": method.customer,
                "fingerprint": method.fingerprint,
                "brand": method.brand,
                "last4": method.last4,
            }
        )

    async def automatic_update(self, request: Request) -> Response:
        """Act as the network's account updater: new expiry or number behind the same PaymentMethod."""
        body = await read_json(request)
        call = await self._call(body)
        with call.store.transaction():
            old = call.named(PaymentMethod, request.path_params["id"], "payment_method")
            new = payment_methods.automatically_updated(
                call, old, body.get("exp_month"), body.get("exp_year"), body.get("last4")
            )
        self.api.processor.outbox.wake_senders()
        return JSONResponse({"id": new.id, "fingerprint": new.fingerprint})

    async def cancel_payment_intent(self, request: Request) -> Response:
        """Cancel as a user of Stripe's dashboard."""
        body = await read_json(request)
        reason = body.get("reason", "requested_by_customer")
        call = await self._call(body, request.path_params["id"], cancellation_reason=reason)
        with call.store.transaction():
            canceled = payment_intents.cancel_payment_intent(call)
        self.api.processor.outbox.wake_senders()
        return JSONResponse(canceled)

    async def authenticate(self, request: Request) -> Response:
        """The customer returns from 3-D Secure. A decline after it is answered with 402."""
        body = await read_json(request)
        intent = request.path_params["id"]
        call = await self._call(body, intent)
        succeeds = bool(body.get("succeeds", True))
        answer: Json | Answer
        with call.store.transaction():
            if intent.startswith("seti_"):
                answer = setup_intents.authenticate(call, call.subject(SetupIntent), succeeds=succeeds)
            else:
                answer = payment_intents.authenticate(call, call.subject(PaymentIntent), succeeds=succeeds)
        self.api.processor.outbox.wake_senders()
        if isinstance(answer, Answer):
            return JSONResponse(answer.body, answer.status)
        return JSONResponse(answer)

    async def refund(self, request: Request) -> Response:
        """Refund a charge as a user of Stripe's dashboard; `amount` in minor units, by default all that is left."""
        return await self._to_charge(request, disputes.refund_charge, "amount")

    async def dispute(self, request: Request) -> Response:
        """Dispute a charge as the cardholder's bank; `is_inquiry`: it only asks, no money is taken yet."""
        return await self._to_charge(request, disputes.open_dispute, "reason", "is_inquiry")

    async def close_dispute(self, request: Request) -> Response:
        """Decide a dispute as the bank."""
        return await self._to_charge(request, disputes.close_dispute, "is_won")

    async def _to_charge(self, request: Request, handle: Callable[[Call], Json], *names: str) -> Response:
        body = await read_json(request)
        given = {name: body[name] for name in names if body.get(name) is not None}
        call = await self._call(body, request.path_params["id"], **given)
        with call.store.transaction():
            answer = handle(call)
        self.api.processor.outbox.wake_senders()
        return JSONResponse(answer)

    # -- webhooks

    async def webhook_stats(self, request: Request) -> Response:  # noqa: ARG002
        webhooks = self.webhooks
        counts = {"delivered": webhooks.delivered, "refused": webhooks.refused}
        return JSONResponse({"pending": webhooks.pending(), **counts})

    async def list_endpoints(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"data": [_shown(each) for each in self.api.processor.outbox.endpoints.values()]})

    async def put_endpoint(self, request: Request) -> Response:
        body = await read_json(request)
        enabled = body.get("enabled_events") or ["*"]
        if unknown := set(enabled) - EVENT_TYPES.keys() - {"*"}:
            raise bad_parameter(f"The simulator sends no {', '.join(sorted(unknown))}", "enabled_events")
        endpoint = self.api.processor.outbox.put_endpoint(
            _required(body, "account"), _required(body, "url"), _required(body, "secret"), enabled
        )
        self.webhooks.wake(endpoint.id)
        return JSONResponse(_shown(endpoint))

    async def remove_endpoint(self, request: Request) -> Response:
        endpoint_id = request.path_params["id"]
        await self.webhooks.dismiss(endpoint_id)
        self.api.processor.outbox.remove_endpoint(endpoint_id)
        return JSONResponse({"id": endpoint_id, "deleted": True})

    # -- the machine

    async def set_latency(self, request: Request) -> Response:
        self.api.latency_ms = float((await read_json(request))["ms"])
        return JSONResponse({"ms": self.api.latency_ms})

    async def prune(self, request: Request) -> Response:
        older_than_s = float((await read_json(request)).get("older_than_s", 0))
        return JSONResponse({"pruned": self.api.idempotency.prune(older_than_s)})

    async def request_stats(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"counts": self.api.requests.counts()})

    async def last_requests(self, request: Request) -> Response:
        limit = int(request.query_params.get("limit", 1000))
        seen = self.api.requests.last(limit, request.query_params.get("path_contains"))
        return JSONResponse({"data": seen})

    async def _call(self, body: Json, *ids: str, **params: Any) -> Call:
        now = await self.api.time.now()
        return Call(self.api.processor, _required(body, "account"), now, params, ids)


def guarded(handle: Handle) -> Handle:
    """Answer refusals in the same shape as Stripe's API does."""

    async def answer(request: Request) -> Response:
        try:
            _refuse_web_pages(request)
            return await handle(request)
        except ApiError as error:
            return JSONResponse(error.answer.body, error.answer.status)

    return answer


def _refuse_web_pages(request: Request) -> None:
    """Take requests of programs on this machine only.

    A page in a browser can send a form to any address, but JSON only after a preflight request, which nothing here
    answers; and a name that was pointed at this machine (DNS rebinding) stays in the header Host.
    """
    if not _LOOPBACK.fullmatch(request.headers.get("host", "")):
        raise _forbidden(403, "/_sim answers only to 127.0.0.1, localhost and [::1] in the header Host.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json":
        raise _forbidden(415, "/_sim takes JSON; send it with Content-Type: application/json.")


def _forbidden(status: int, message: str) -> ApiError:
    return ApiError(Answer(status, error_body(message, "invalid_request_error")), is_saved=False)


async def read_json(request: Request) -> Json:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        raise bad_parameter("The body is not JSON; /_sim takes JSON, only /v1 takes forms.", "body") from None
    if not isinstance(body, dict):
        raise bad_parameter("The body is JSON, but not an object.", "body")
    return body


def _required(body: Json, name: str) -> str:
    if not body.get(name):
        raise bad_parameter(f"Missing required field: {name}.", name, "parameter_missing")
    return str(body[name])


def _story(body: Json) -> Any:
    try:
        return story_from_json(body.get("story") or {"kind": "pays"})
    except StoryError as error:
        raise bad_parameter(str(error), "story") from None


def _face(card: StoryCard | None, method: PaymentMethod | None) -> dict[str, Any]:
    if card is not None:
        return card.face
    names = ("brand", "last4", "exp_month", "exp_year")
    return {name: getattr(method, name) for name in names}


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    shown = asdict(endpoint)
    del shown["secret"]
    return {**shown, "enabled_events": sorted(endpoint.enabled_events)}
