"""Creates Stripe customers for the payment settings that pay by card, so that cards can be registered."""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select, update

from shared.db.billing_events import BillingEvent, record_event
from shared.db.session import in_transaction
from shared.db.tables.accounts import payment_settings
from shared.domain.event_types import EventType
from shared.domain.states import SettingsKind
from shared.gateway.port import GatewayMissingError, GatewayUnavailableError, ProcessorGateway
from shared.runtime import Runtime

#: Some 8 requests of 300 ms in parallel use the default limit of 20 a second.
THREADS = 8
#: Rows read at a time; the next page starts after the last id, so memory is bounded.
PAGE = 1_000
#: Errors in a row after which the key or the network is the cause, not a single customer.
GIVE_UP_AFTER = 20


@dataclass
class CreatedCustomers:
    """How many customers were created, and the errors of the others, each message once."""

    created: int = 0
    not_created: int = 0
    errors: list[str] = field(default_factory=list)
    consecutive_errors: int = 0
    last_error: str = ""

    def add(self, error: str | None) -> None:
        if error is None:
            self.created, self.consecutive_errors = self.created + 1, 0
            return
        self.not_created, self.consecutive_errors = self.not_created + 1, self.consecutive_errors + 1
        if error != self.last_error and len(self.errors) < GIVE_UP_AFTER:
            self.errors.append(error)
        self.last_error = error


def count_missing_customers(runtime: Runtime, coverage: str) -> int:
    """Count the coverage's settings that pay by card and have no Stripe customer."""
    with runtime.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(_missing(coverage).subquery())) or 0


def create_customers(
    runtime: Runtime,
    gateway: ProcessorGateway,
    coverage: str,
    actor: str,
    threads: int = THREADS,
    on_done: Callable[[int], None] = lambda _: None,
) -> CreatedCustomers:
    """Create a customer for each settings row of the coverage that pays by card and has none, and store its id.

    An interruption between the two does no harm: the idempotency key names the row, so the next run gets the same
    customer (within Stripe's 24 hours; later, one without cards or payments stays unused at Stripe).
    """
    result = CreatedCustomers()
    rows = _rows(runtime, coverage)
    with ThreadPoolExecutor(threads) as pool:
        running: set[Future[str | None]] = set()
        while result.consecutive_errors < GIVE_UP_AFTER:
            for row in islice(rows, 2 * threads - len(running)):
                running.add(pool.submit(_create_one, runtime, gateway, row, actor))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                result.add(future.result())
            on_done(len(done))
        for future in running:
            result.add(future.result())
    if result.consecutive_errors >= GIVE_UP_AFTER:
        result.errors.append(f"stopped after {result.consecutive_errors} errors in a row")
    return result


def _missing(coverage: str) -> Any:
    columns = (payment_settings.c.id, payment_settings.c.account_id, payment_settings.c.coverage)
    return select(*columns, payment_settings.c.card_revision).where(
        payment_settings.c.coverage == coverage,
        payment_settings.c.kind == SettingsKind.CARD,
        payment_settings.c.stripe_customer_id.is_(None),
    )


def _rows(runtime: Runtime, coverage: str) -> Iterator[Row[Any]]:
    after: UUID | None = None
    while True:
        query = _missing(coverage).order_by(payment_settings.c.id).limit(PAGE)
        with runtime.engine.connect() as connection:
            page = connection.execute(query if after is None else query.where(payment_settings.c.id > after)).all()
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].id


def _create_one(runtime: Runtime, gateway: ProcessorGateway, row: Row[Any], actor: str) -> str | None:
    """Create one customer and store its id; return the error, if there is one."""
    metadata = {
        "duecourse_settings_id": str(row.id),
        "duecourse_account_id": str(row.account_id),
        "duecourse_coverage": row.coverage,
    }
    try:
        # With the revision, since a deleted customer's key would return that customer again for a day.
        revised = f"-{row.card_revision}" if row.card_revision else ""
        customer_id = gateway.create_customer(metadata, f"duecourse-customer-{row.id}{revised}")
    except (GatewayUnavailableError, GatewayMissingError) as error:
        return f"{row.coverage}: {error}"

    def store(connection: Connection) -> None:
        stored = connection.execute(
            update(payment_settings)
            .where(payment_settings.c.id == row.id, payment_settings.c.stripe_customer_id.is_(None))
            .values(stripe_customer_id=customer_id)
        )
        if stored.rowcount:
            record_event(
                connection,
                BillingEvent(
                    type=EventType.STRIPE_CUSTOMER_CREATED,
                    at=runtime.clock.now(),
                    actor=actor,
                    account_id=row.account_id,
                    data={"coverage": row.coverage, "stripe_customer_id": customer_id},
                ),
            )

    in_transaction(runtime.engine, store)
    return None
