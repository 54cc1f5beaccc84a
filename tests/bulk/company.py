"""Accounts with due payments, and an operator's bulk actions on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, select

from shared.bulk.actions import BulkAction
from shared.bulk.lifecycle import ConfirmedPreview, PreviewChanged, Started, begin, resume, stop
from shared.bulk.preview import Preview, preview
from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.db.tables.operators import audit_log, bulk_actions, bulk_items
from shared.db.tables.payments import payments
from shared.db.tables.system import billing_events
from shared.domain.refusals import Refused
from tests.seed import Account
from tests.world import World
from web.dashboard.queries.payments import PaymentFilter
from workers import use_cases

ANNA = "operator:anna"


def everything() -> Select[Any]:
    return select(payments.c.id)


@dataclass
class Desk:
    """An operator's previews, confirmations and reads of bulk actions."""

    world: World

    def account(self, name: str, amounts: Sequence[int] = (), coverage: str = "global") -> Account:
        """An account with a card of its own, and due payments of these amounts."""
        account = self.world.account(name, coverage)
        self.world.add_primary_card(account, self.world.simulator.make_card(coverage).token)
        for amount in amounts:
            self.world.add_due_payment(account, amount)
        return account

    def preview(self, action: BulkAction, ids: Select[Any] | None = None) -> Preview:
        with self.world.engine.connect() as connection:
            found = preview(
                connection,
                action,
                everything() if ids is None else ids,
                self.world.clock.now(),
                self.world.machine(),
            )
        assert isinstance(found, Preview), found
        return found

    def confirm(
        self,
        action: BulkAction,
        digest: str,
        who: str = ANNA,
        ids: Select[Any] | None = None,
        until: date | None = None,
        reason: str = "month end",
    ) -> Started | PreviewChanged | Refused:
        chosen = everything() if ids is None else ids
        stored = PaymentFilter(self.world.clock.now()).as_json()  # what the page stores, to be shown
        wanted = ConfirmedPreview(action, stored, until, digest)
        cause = Cause(who, self.world.clock.now(), reason)
        return in_transaction(
            self.world.engine, lambda connection: begin(connection, wanted, chosen, cause, self.world.machine())
        )

    def begin(self, action: BulkAction, **how: Any) -> UUID:
        begun = self.confirm(action, self.preview(action, how.get("ids")).digest, **how)
        assert isinstance(begun, Started), begun
        return begun.bulk_id

    def stop(self, bulk_id: UUID, reason: str = "too many") -> Row[Any] | Refused:
        cause = Cause("operator:bob", self.world.clock.now(), reason)
        return in_transaction(self.world.engine, lambda connection: stop(connection, bulk_id, cause))

    def resume(self, bulk_id: UUID, reason: str = "they are right") -> Row[Any] | Refused:
        cause = Cause("operator:bob", self.world.clock.now(), reason)
        return in_transaction(self.world.engine, lambda connection: resume(connection, bulk_id, cause))

    # -- work

    def apply(self, bulk_id: UUID) -> None:
        use_cases.apply_bulk_action(self.world.runtime, bulk_id)

    def do_enqueued(self) -> None:
        self.world.do_enqueued()

    # -- reading

    def bulk(self, bulk_id: UUID) -> Row[Any]:
        with self.world.engine.connect() as connection:
            return connection.execute(select(bulk_actions).where(bulk_actions.c.id == bulk_id)).one()

    def items(self, bulk_id: UUID) -> dict[UUID, tuple[str, str | None]]:
        with self.world.engine.connect() as connection:
            rows = connection.execute(select(bulk_items).where(bulk_items.c.bulk_id == bulk_id))
            return {row.payment_id: (row.state, row.result) for row in rows}

    def audit_log(self) -> list[Row[Any]]:
        with self.world.engine.connect() as connection:
            return list(connection.execute(select(audit_log).order_by(audit_log.c.id)))

    def billing_events(self, event_type: str) -> list[Row[Any]]:
        with self.world.engine.connect() as connection:
            return list(connection.execute(select(billing_events).where(billing_events.c.type == event_type)))

    def amounts(self) -> dict[UUID, int]:
        with self.world.engine.connect() as connection:
            return {row.id: row.amount_minor for row in connection.execute(select(payments))}

    def states(self) -> list[str]:
        with self.world.engine.connect() as connection:
            return sorted(connection.scalars(select(payments.c.state)))

    def captured_amounts(self) -> dict[UUID, list[int]]:
        """The processor's ledger by payment, in minor units."""
        found: dict[UUID, list[int]] = {}
        for line in self.world.simulator.iter_ledger():
            found.setdefault(UUID(line.metadata["duecourse_payment_id"]), []).append(line.amount)
        return found
