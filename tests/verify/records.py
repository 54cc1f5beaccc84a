"""A small world with consistent records: invoiced by month start, charged and declined."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from sqlalchemy import select, text

from shared.db.tables.payments import payments
from shared.reconciliation.verify import CHECKS, Report, Scope, verify
from shared.reconciliation.verify.run import KEEP
from simulator.issuer.stories import AlwaysDeclines
from tests.seed import Account, add_account, add_fee, add_run, add_service
from tests.world import World
from workers.use_cases.generate_invoices import generate_invoices

#: The world's clock stands here when month start runs.
MONTH_START = datetime(2026, 11, 1, 9, 0, tzinfo=UTC)


@dataclass
class Records:
    """The payments by their outcome."""

    world: World
    paid: UUID
    declined: UUID
    without_card: UUID
    transfer: UUID
    zero: UUID
    carried: UUID
    accounts: dict[str, Account]

    def run(self, *, processor: bool = True, keep: int = KEEP, **scope: object) -> Report:
        moments = {"now": self.world.clock.now(), "machine_now": self.world.machine()}
        return verify(
            self.world.engine,
            Scope(**{**moments, **scope}),  # type: ignore[arg-type]
            gateways=self.world.runtime.gateways if processor else None,
            coverages=self.world.policy.coverages,
            keep=keep,
        )

    def plant(self, *statements: str, **parameters: object) -> None:
        """Write what the database would refuse, without triggers and foreign keys; `:paid`… are payments."""
        known = {name: value for name, value in vars(self).items() if isinstance(value, UUID)}
        known["now"] = self.world.clock.now()
        with self.world.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                connection.execute(text(statement), {**known, **parameters})


def make_records(world: World) -> Records:
    """Invoice October for six accounts and charge what is due."""
    accounts = {}
    with world.engine.begin() as connection:
        accounts["transfer"] = add_account(connection, "transfer", kind="bank_transfer")
    for name in ("paid", "declined", "without_card", "zero", "carried"):
        accounts[name] = world.account(name)
    world.add_primary_card(accounts["paid"])
    world.add_primary_card(accounts["carried"])
    world.add_primary_card(accounts["declined"], story=AlwaysDeclines(decline_code="insufficient_funds"))
    amounts = {"paid": 29_85, "declined": 12_00, "without_card": 7_77, "transfer": 100_00, "zero": 0}
    with world.engine.begin() as connection:
        for name, amount in amounts.items():
            add_fee(connection, accounts[name], amount)
        add_service(connection, accounts["carried"], 20, starts_on=date(2026, 10, 1), ends_on=date(2026, 10, 31))
        run_id = add_run(connection)
    generate_invoices(world.runtime, run_id)
    while world.enqueued:
        world.enqueued.clear()
        generate_invoices(world.runtime, run_id)
    with world.engine.connect() as connection:
        of_account = {
            row.account_id: row.id for row in connection.execute(select(payments.c.account_id, payments.c.id))
        }
    ids = {name: of_account[account.id] for name, account in accounts.items()}
    for name in ("paid", "declined", "without_card"):
        world.charge(ids[name])
    return Records(world=world, accounts=accounts, **ids)


def names_broken(report: Report) -> list[str]:
    return [result.check.name for result in report.results if not result.holds]


def all_names() -> set[str]:
    return {check.name for check in CHECKS}
