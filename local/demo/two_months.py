"""Two months of the demo company's billing, day by day, on the virtual clock."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine, func, select

from cli.importing.accounts import accounts_file
from cli.importing.fees import fees_file
from cli.importing.importer import Order, import_file
from cli.importing.kind import FileKind
from cli.importing.layout import parse_column_options
from cli.importing.services import services_file
from cli.importing.source import open_source
from local.demo.customers import FIRST, LAST_DAY, SECOND, Customer, write_files
from local.stack import Stack
from shared.accounts.stripe_customers import create_customers
from shared.db.tables.accounts import accounts, payment_settings
from shared.db.tables.system import stripe_events
from shared.domain.states import SettingsKind
from shared.runtime import Runtime
from shared.scheduling.virtual_clock import Step, advance_clock, set_clock
from simulator.client import SimulatorClient

#: Before October ends and is billed; in Tokyo it ends nine hours earlier than in UTC.
START_AT = datetime(2026, 10, 30, 0, 0, tzinfo=UTC)
MIDDAY = time_of_day(12, 0, tzinfo=UTC)
#: Registering a card is mostly waiting for the simulator.
THREADS = 8
EVENTS_APPLIED_WITHIN_S = 30.0


class DemoError(Exception):
    """The demo can't continue; the message says why."""


def set_up_company(
    stack: Stack, runtime: Runtime, customers: Sequence[Customer], folder: Path, console: Console
) -> None:
    """Set the clock, import the company's files, and register its customers' cards."""
    engine, policy = runtime.engine, runtime.policy
    with engine.begin() as connection:
        set_clock(connection, START_AT, policy)
    files = write_files(customers, folder)
    with console.status("importing accounts, services and fees"):
        _import(engine, accounts_file(policy), files["accounts"])
        _import(engine, services_file(policy), files["services"])
        for period in (FIRST, SECOND):
            _import(engine, fees_file(policy, period, START_AT.date()), files[f"fees-{period}"])
    with console.status("customers register their cards"):
        for coverage, gateway in runtime.gateways.items():
            create_customers(runtime, gateway, coverage, "operator:demo")
        register_cards(stack, engine, [customer for customer in customers if customer.story is not None])


def run_two_months(stack: Stack, engine: Engine, customers: Sequence[Customer], console: Console) -> None:
    """Advance the clock to the end of December; customers register another card on their days."""
    registering: dict[date, list[Customer]] = defaultdict(list)
    for customer in customers:
        if customer.registers_on is not None:
            registering[customer.registers_on].append(customer)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[day]}"),
        TimeElapsedColumn(),
        console=console,
    )
    end = datetime.combine(LAST_DAY, MIDDAY)  # before Tokyo begins its next month
    with progress:
        task = progress.add_task("billing two months", total=(end - START_AT).total_seconds(), day="")

        def on_step(step: Step) -> None:
            progress.update(task, completed=(step.at - START_AT).total_seconds(), day=step.at.date().isoformat())

        for day, registering_now in sorted(registering.items()):
            advance_clock(engine, stack.policy, datetime.combine(day, MIDDAY), on_step=on_step)
            register_cards(stack, engine, registering_now, is_replacement=True)
        advance_clock(engine, stack.policy, end, on_step=on_step)


def register_cards(
    stack: Stack, engine: Engine, customers: Sequence[Customer], *, is_replacement: bool = False
) -> None:
    """Register a card for each customer at the simulator, as a browser does, and wait until its events are applied.

    The first card has the customer's story; a later one (`is_replacement`) always pays.
    """
    if not customers:
        return
    known = _customers(engine, customers)
    before = _count_applied_events(engine)

    def register(customer: Customer) -> None:
        story = None if is_replacement else customer.story
        card = simulator.make_card(customer.coverage, story, brand=customer.brand)
        settings_id, stripe_customer_id = known[customer.external_id]
        metadata = {"duecourse_settings_id": settings_id, "duecourse_intent": "replace"}
        simulator.register_card(customer.coverage, stripe_customer_id, card.token, metadata)

    with SimulatorClient(_simulator(stack)) as simulator, ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(register, customers))
    deadline = time.monotonic() + EVENTS_APPLIED_WITHIN_S
    while _count_applied_events(engine) < before + len(customers):
        if time.monotonic() > deadline:
            raise DemoError("the simulator's webhooks weren't applied; see .duecourse/logs/web.log")
        time.sleep(0.01)


def _import(engine: Engine, kind: FileKind, path: Path) -> None:
    """Import a file in this process, as `duecourse import` does."""
    with open_source(str(path), "utf-8", ",") as source:
        column_options = parse_column_options(kind.columns, [], [], [])
        order = Order(kind, column_options, path.with_suffix(".rejects.csv"), START_AT, "operator:demo")
        report = import_file(engine, source, order)
    if report.problem_count:
        raise DemoError(f"{path} has {report.problem_count} bad cells; see {order.rejects}")


def _customers(engine: Engine, customers: Sequence[Customer]) -> Mapping[str, tuple[str, str]]:
    wanted = {customer.external_id for customer in customers}
    with engine.connect() as connection:
        rows = connection.execute(
            select(accounts.c.external_id, payment_settings.c.id, payment_settings.c.stripe_customer_id)
            .join(payment_settings, payment_settings.c.account_id == accounts.c.id)
            .where(payment_settings.c.kind == SettingsKind.CARD)
        )
        return {row[0]: (str(row[1]), row[2]) for row in rows if row[0] in wanted}


def _count_applied_events(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(
            connection.scalar(
                select(func.count())
                .select_from(stripe_events)
                .where(stripe_events.c.type == "setup_intent.succeeded", stripe_events.c.state == "applied")
            )
            or 0
        )


def _simulator(stack: Stack) -> str:
    if stack.simulator_url is None:
        raise DemoError("the demo charges only simulated cards: unset STRIPE_API_KEYS")
    return stack.simulator_url
