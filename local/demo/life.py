"""Two months in the life of the demo's company, day by day, on the virtual clock."""

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

from cli.customer_commands import create_customers
from cli.importing.accounts import accounts_file
from cli.importing.fees import fees_file
from cli.importing.importer import Order, import_file
from cli.importing.kind import FileKind
from cli.importing.layout import parse_wishes
from cli.importing.services import services_file
from cli.importing.source import open_source
from local.demo.people import FIRST, LAST_DAY, SECOND, Person, write_files
from local.stack import Stack
from shared.db.tables.accounts import accounts, payment_settings
from shared.db.tables.system import stripe_events
from shared.domain.states import SettingsKind
from shared.runtime import Runtime
from shared.scheduling.virtual_clock import Step, advance_clock, set_clock
from simulator.client import SimulatorClient

#: October is billed when it ends; in Tokyo that is nine hours before it ends in UTC.
BIRTH = datetime(2026, 10, 30, 0, 0, tzinfo=UTC)
MIDDAY = time_of_day(12, 0, tzinfo=UTC)
#: Registering cards is mostly waiting for the simulator.
THREADS = 8
EVENTS_WITHIN_S = 30.0


class DemoError(Exception):
    """The demo can't go on; the message says why."""


def begin(stack: Stack, runtime: Runtime, people: Sequence[Person], folder: Path, console: Console) -> None:
    """Set the clock, import the company's files, and let its customers register their cards."""
    engine, policy = runtime.engine, runtime.policy
    with engine.begin() as connection:
        set_clock(connection, BIRTH, policy)
    files = write_files(people, folder)
    with console.status("importing accounts, services and fees"):
        _import(engine, accounts_file(policy), files["accounts"])
        _import(engine, services_file(policy), files["services"])
        for period in (FIRST, SECOND):
            _import(engine, fees_file(policy, period, BIRTH.date()), files[f"fees-{period}"])
    with console.status("customers register their cards"):
        for coverage, gateway in runtime.gateways.items():
            create_customers(runtime, gateway, coverage)
        register_cards(stack, engine, [person for person in people if person.story is not None])


def live(stack: Stack, engine: Engine, people: Sequence[Person], console: Console) -> None:
    """Live from the first of November to the end of December; people register new cards when they do."""
    registering: dict[date, list[Person]] = defaultdict(list)
    for person in people:
        if person.registers_on is not None:
            registering[person.registers_on].append(person)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[day]}"),
        TimeElapsedColumn(),
        console=console,
    )
    end = datetime.combine(LAST_DAY, MIDDAY)  # before Tokyo begins its next month
    with progress:
        task = progress.add_task("living two months", total=(end - BIRTH).total_seconds(), day="")

        def on_step(step: Step) -> None:
            progress.update(task, completed=(step.at - BIRTH).total_seconds(), day=step.at.date().isoformat())

        for day, newcomers in sorted(registering.items()):
            advance_clock(engine, stack.policy, datetime.combine(day, MIDDAY), on_step=on_step)
            register_cards(stack, engine, newcomers, has_paid_with=True)
        advance_clock(engine, stack.policy, end, on_step=on_step)


def register_cards(stack: Stack, engine: Engine, people: Sequence[Person], *, has_paid_with: bool = False) -> None:
    """Register a card for each person at the simulator, as a browser does, and wait until its events are applied.

    The first card tells the person's story; a later one (`has_paid_with`) is a good one.
    """
    if not people:
        return
    customers = _customers(engine, people)
    before = _applied_events(engine)

    def register(person: Person) -> None:
        story = None if has_paid_with else person.story
        card = simulator.make_card(person.coverage, story, brand=person.brand)
        settings_id, customer = customers[person.external_id]
        metadata = {"duecourse_settings_id": settings_id, "duecourse_intent": "replace"}
        simulator.register_card(person.coverage, customer, card.token, metadata)

    with SimulatorClient(_simulator(stack)) as simulator, ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(register, people))
    deadline = time.monotonic() + EVENTS_WITHIN_S
    while _applied_events(engine) < before + len(people):
        if time.monotonic() > deadline:
            raise DemoError("the simulator's webhooks weren't applied; see .duecourse/logs/web.log")
        time.sleep(0.01)


def _import(engine: Engine, kind: FileKind, path: Path) -> None:
    """What `duecourse import` does, in this process."""
    with open_source(str(path), "utf-8", ",") as source:
        wishes = parse_wishes(kind.columns, [], [], [])
        order = Order(kind, wishes, path.with_suffix(".rejects.csv"), BIRTH, "operator:demo")
        report = import_file(engine, source, order)
    if report.problem_count:
        raise DemoError(f"{path} has {report.problem_count} bad cells; see {order.rejects}")


def _customers(engine: Engine, people: Sequence[Person]) -> Mapping[str, tuple[str, str]]:
    wanted = {person.external_id for person in people}
    with engine.connect() as connection:
        rows = connection.execute(
            select(accounts.c.external_id, payment_settings.c.id, payment_settings.c.stripe_customer_id)
            .join(payment_settings, payment_settings.c.account_id == accounts.c.id)
            .where(payment_settings.c.kind == SettingsKind.CARD)
        )
        return {row[0]: (str(row[1]), row[2]) for row in rows if row[0] in wanted}


def _applied_events(engine: Engine) -> int:
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
