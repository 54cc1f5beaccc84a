"""The web process: Stripe's webhooks, health probes and the operators' dashboard."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import structlog
from dramatiq.brokers.redis import RedisBroker
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from shared.db.session import make_engine
from shared.failpoints import arm
from shared.gateway.stripe_webhooks import verify_webhook
from shared.logs import configure_logs
from shared.messaging.broker import make_broker
from shared.operations.heartbeats import WEB, Heartbeats
from shared.policy import Policy, PolicyError
from shared.runtime import Runtime, build_runtime
from shared.settings import Settings, SettingsError, load_settings
from web.dashboard.auth import WORKERS
from web.dashboard.request_context import ROOT
from web.dashboard.routes import dashboard_routes
from web.dashboard.site import Site
from web.dashboard.templating import make_templates
from web.headers import StrictHeaders
from web.webhooks import STORE_THREADS, Endpoint, WebhookReceiver

log = structlog.get_logger()

#: Seconds that the readiness probe waits for the database.
READY_WITHIN_S = 3.0
#: Statement timeout (s), below the time that Stripe waits for a response; storing an event takes a millisecond.
STATEMENT_LIMIT_S = 5


def make_app() -> ASGIApp:
    """Build the application from the environment, for uvicorn's `--factory`. Opens no connection."""
    try:
        settings = load_settings()
        configure_logs("web", settings.log_level)
        arm(settings.crash_plan)
        _redirect_uvicorn_logs()
        broker = make_broker(settings.redis_url.get_secret_value())
        return build_app(settings, _runtime(settings, broker), broker, is_process=True)
    except (SettingsError, PolicyError) as error:
        raise SystemExit(str(error)) from None


def _runtime(settings: Settings, broker: RedisBroker) -> Runtime:
    connections = STORE_THREADS + 1  # one for the probe
    return build_runtime(settings, broker=broker, pool_size=connections, statement_limit_s=STATEMENT_LIMIT_S)


def build_app(
    settings: Settings, runtime: Runtime, broker: RedisBroker | None = None, *, is_process: bool = False
) -> ASGIApp:
    """Build the application around a runtime. Without a broker the queues page shows no message counts.

    `is_process`: it runs as its own process and sends heartbeats.
    """
    endpoints = webhook_endpoints(settings, runtime.policy)
    receiver = WebhookReceiver(endpoints, runtime.engine, runtime.enqueue, verify_webhook)
    site = make_site(settings, runtime, broker)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        heartbeats_sender = Heartbeats(lambda: site.engine, WEB)
        if is_process:
            heartbeats_sender.start()
        log.info("web.started", webhooks=sorted(endpoints))
        yield
        await anyio.to_thread.run_sync(heartbeats_sender.stop)
        await anyio.to_thread.run_sync(runtime.engine.dispose)
        await anyio.to_thread.run_sync(site.engine.dispose)

    async def ready(_request: Request) -> Response:
        if await _reaches_database(runtime.engine):
            return PlainTextResponse("ready\n")
        return PlainTextResponse("the database can't be reached\n", 503)

    return StrictHeaders(
        Starlette(
            routes=[
                Route("/webhooks/stripe/{coverage}", receiver.receive, methods=["POST"]),
                Route("/healthz", _healthy, methods=["GET"]),
                Route("/readyz", ready, methods=["GET"]),
                Route("/", _to_dashboard, methods=["GET"]),
                *dashboard_routes(site),
            ],
            lifespan=lifespan,
        )
    )


def make_site(settings: Settings, runtime: Runtime, broker: RedisBroker | None = None) -> Site:
    """Build what the dashboard's pages share. It has its own connection pool, so pages never delay webhooks."""
    return Site(
        runtime=runtime,
        engine=make_engine(settings, pool_size=WORKERS, statement_limit_s=STATEMENT_LIMIT_S),
        templates=make_templates(),
        broker=broker,
        is_test_mode=not settings.has_live_key,
        trusted_proxies=settings.trusted_proxies,
        user_header=settings.user_header,
    )


def webhook_endpoints(settings: Settings, policy: Policy) -> Mapping[str, Endpoint]:
    """Return an endpoint for each coverage that has secrets and a key; log a warning for each of the others."""
    endpoints: dict[str, Endpoint] = {}
    for coverage in policy.coverages:
        secrets = [secret.get_secret_value() for secret in settings.stripe_webhook_secrets.get(coverage, ())]
        key = settings.stripe_api_keys.get(coverage)
        secrets = [secret for secret in secrets if secret.strip()]
        if not secrets or key is None:
            name = "STRIPE_API_KEYS" if secrets else "STRIPE_WEBHOOK_SECRETS"
            log.warning("web.no_webhook", coverage=coverage, what_to_do=f"give {name} an entry {coverage!r}")
            continue
        endpoints[coverage] = Endpoint(coverage, secrets, is_live="_live_" in key.get_secret_value())
    return endpoints


async def _to_dashboard(_request: Request) -> Response:
    return RedirectResponse(ROOT, 303)


async def _healthy(_request: Request) -> Response:
    return PlainTextResponse("alive\n")


async def _reaches_database(engine: Engine) -> bool:
    def ask() -> bool:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            log.warning("web.not_ready", why=type(error.__cause__ or error).__name__)
            return False
        return True

    with anyio.move_on_after(READY_WITHIN_S):
        return await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
    return False


def _redirect_uvicorn_logs() -> None:
    """Route uvicorn's log lines through our handler, which redacts secrets."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
