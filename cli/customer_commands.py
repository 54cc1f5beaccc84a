"""`duecourse customers …`: a customer at Stripe for everybody who pays by card, so that cards can be registered."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Row, func, select, update

from cli.console import complain, operator, out, plain_errors
from cli.environment import connect_settings
from shared.db.billing_events import BillingEvent, record_event
from shared.db.session import in_transaction
from shared.db.tables.accounts import payment_settings
from shared.domain.event_types import EventType
from shared.domain.states import SettingsKind
from shared.gateway.port import GatewayMissingError, GatewayUnavailableError, ProcessorGateway
from shared.runtime import Runtime, build_runtime

app = typer.Typer(name="customers", help="Customers at the card processor.", no_args_is_help=True)

#: Some 8 requests of 300 ms at once keep the default limit of 20 a second busy.
THREADS = 8
#: Rows read at a time; the next page begins behind the last id, so memory is bounded.
PAGE = 1_000
#: Refusals in a row after which something is wrong with key or network, and not with one customer.
GIVE_UP_AFTER = 20


@dataclass
class Made:
    """What became of it."""

    created: int = 0
    not_created: int = 0
    in_a_row: int = 0
    last_trouble: str = ""
    troubles: list[str] = field(default_factory=list)


@app.callback()
def _group() -> None:
    """A group, so that `create` is a word of the command line although it is the only one."""


@app.command("create")
def create(
    coverage: Annotated[str | None, typer.Option("--coverage", help="Whose Stripe account; default: all.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, max=64, help="Requests under way at once.")] = THREADS,
) -> None:
    """Create the Stripe customers that are missing. Safe to stop and to run again."""
    with plain_errors():
        runtime = build_runtime(connect_settings(), pool_size=threads + 1)
        coverages = list(runtime.policy.coverages) if coverage is None else [runtime.policy.coverage(coverage).code]
        all_made = [_create_in(runtime, code, threads) for code in coverages]
    if any(made.not_created for made in all_made):
        complain("run it again: what was created is kept, and the same request never makes a second customer")
        raise typer.Exit(1)


def _create_in(runtime: Runtime, coverage: str, threads: int) -> Made:
    gateway = runtime.gateways.get(coverage)
    if gateway is None:
        raise LookupError(f"STRIPE_API_KEYS has no key for coverage {coverage}; add it")
    made = create_customers(runtime, gateway, coverage, threads)
    out().print(f"{coverage}: {made.created} customers created, {made.not_created} not created")
    for trouble in made.troubles:
        complain(trouble)
    return made


def create_customers(runtime: Runtime, gateway: ProcessorGateway, coverage: str, threads: int = THREADS) -> Made:
    """Create a customer for each card-paying settings row of the coverage that has none, and note its id.

    A stop between the two costs nothing: the key names the row, so the next run gets the same customer back
    (within Stripe's 24 hours; later, one without cards or payments is left behind there).
    """
    made = Made()
    with runtime.engine.connect() as connection:
        total = connection.scalar(select(func.count()).select_from(_missing(coverage).subquery())) or 0
    progress = Progress(
        TextColumn("customers of {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not Console(stderr=True).is_terminal,
    )
    rows = _rows(runtime, coverage)
    with progress, ThreadPoolExecutor(threads) as pool:
        task = progress.add_task(coverage, total=total)
        running: set[Future[str | None]] = set()
        while made.in_a_row < GIVE_UP_AFTER:
            for row in islice(rows, 2 * threads - len(running)):
                running.add(pool.submit(_create_one, runtime, gateway, row))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                _note(made, future.result())
            progress.advance(task, len(done))
        for future in running:
            _note(made, future.result())
    if made.in_a_row >= GIVE_UP_AFTER:
        made.troubles.append(f"stopped after {made.in_a_row} refusals in a row")
    return made


def _note(made: Made, trouble: str | None) -> None:
    if trouble is None:
        made.created, made.in_a_row = made.created + 1, 0
        return
    made.not_created, made.in_a_row = made.not_created + 1, made.in_a_row + 1
    if trouble != made.last_trouble and len(made.troubles) < GIVE_UP_AFTER:
        made.troubles.append(trouble)
    made.last_trouble = trouble


def _missing(coverage: str) -> Any:
    return select(payment_settings.c.id, payment_settings.c.account_id, payment_settings.c.coverage).where(
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


def _create_one(runtime: Runtime, gateway: ProcessorGateway, row: Row[Any]) -> str | None:
    """Create and note one customer; return what went wrong, if anything did."""
    metadata = {
        "duecourse_settings_id": str(row.id),
        "duecourse_account_id": str(row.account_id),
        "duecourse_coverage": row.coverage,
    }
    try:
        customer_id = gateway.create_customer(metadata, f"duecourse-customer-{row.id}")
    except (GatewayUnavailableError, GatewayMissingError) as error:
        return f"{row.coverage}: {error}"

    def note(connection: Any) -> None:
        noted = connection.execute(
            update(payment_settings)
            .where(payment_settings.c.id == row.id, payment_settings.c.stripe_customer_id.is_(None))
            .values(stripe_customer_id=customer_id)
        )
        if noted.rowcount:
            record_event(
                connection,
                BillingEvent(
                    type=EventType.STRIPE_CUSTOMER_CREATED,
                    at=runtime.clock.now(),
                    actor=operator(),
                    account_id=row.account_id,
                    data={"coverage": row.coverage, "stripe_customer_id": customer_id},
                ),
            )

    in_transaction(runtime.engine, note)
    return None
