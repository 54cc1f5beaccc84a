"""Builds the application, and starts and stops its parts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.clock import BusinessClock
from simulator.admin import Admin
from simulator.api.call import Processor
from simulator.api.idempotency import PRUNE_EVERY_S, Idempotency
from simulator.api.pipeline import StripeApi
from simulator.api.rate_limit import RateLimit
from simulator.api.request_log import RequestLog
from simulator.business_time import BusinessTime
from simulator.faults.admin import FaultAdmin
from simulator.faults.hooks import FaultHooks
from simulator.faults.scripted import ScriptedFaults
from simulator.settings import Settings
from simulator.store.ids import IdMint
from simulator.store.store import Store
from simulator.webhooks.delivery import WebhookSenders
from simulator.webhooks.events import Outbox


@dataclass(frozen=True)
class Simulator:
    """One simulator. Close it when its server has stopped."""

    app: Starlette
    store: Store

    def close(self) -> None:
        self.store.close()


class SimulatorApp(Starlette):
    """Starlette for `/_sim`. `/v1` bypasses its router and middleware, which cost as much as a small charge."""

    stripe_api: StripeApi

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            await self.stripe_api(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def build_simulator(settings: Settings, clock: BusinessClock, faults: FaultHooks | None = None) -> Simulator:
    """Open the data folder and connect the parts. Raises StoreInUse if another simulator uses the folder."""
    store = Store(settings.data)
    mint = IdMint()
    outbox = Outbox(store, mint)
    outbox.settle_endpoints(settings.webhooks)
    processor = Processor(store, mint, outbox, settings.confirmation_limit)
    business_time = BusinessTime(clock)
    scripted = ScriptedFaults(processor, business_time, faults)
    api = StripeApi(
        processor=processor,
        time=business_time,
        idempotency=Idempotency(store),
        requests=RequestLog(),
        accounts=settings.accounts,
        faults=scripted,
        rate_limit=RateLimit(settings.rate_limit_per_s),
    )
    webhooks = WebhookSenders(store, outbox, scripted)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
        webhooks.start()
        pruning = asyncio.create_task(_prune_now_and_then(api.idempotency))
        yield
        pruning.cancel()
        with suppress(asyncio.CancelledError):
            await pruning
        await webhooks.stop()
        api.time.close()

    routes = [*Admin(api, webhooks).routes(), *FaultAdmin(scripted, api.rate_limit, webhooks).routes()]
    app = SimulatorApp(routes=routes, lifespan=lifespan)
    app.stripe_api = api
    return Simulator(app, store)


async def _prune_now_and_then(idempotency: Idempotency) -> None:
    while True:
        idempotency.prune()
        await asyncio.sleep(PRUNE_EVERY_S)


class CuttableProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also gives faults access to the connection, to cut it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["simulator.transport"] = self.transport  # type: ignore[typeddict-unknown-key]


def server_config(app: Starlette, host: str, port: int) -> uvicorn.Config:
    """Settings of uvicorn: no access log (we have our own), and a stop that doesn't wait for idle connections."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=CuttableProtocol,
        ws="none",
        lifespan="on",
        log_config=None,  # as the process has it
        log_level="warning",
        access_log=False,
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )
