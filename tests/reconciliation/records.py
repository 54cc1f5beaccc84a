"""Our records and a processor that agree, and ways to make them differ."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Row, text

from shared.gateway.port import Answer, ChargeReadBack, Outcome, Page, PaymentIntentSnapshot
from shared.messaging.jobs import RECONCILIATION
from tests.seed import Account, add_run
from tests.world import World
from workers.use_cases.reconcile_charges import reconcile_charges

#: The world's clock stands at 2026-11-01 09:00 UTC; this is the next run.
NIGHT = datetime(2026, 11, 2, 4, 0, tzinfo=UTC)

#: Our records as if the answer about the money never arrived.
UNBOOK = (
    "DELETE FROM receipts WHERE payment_id = :payment",
    """UPDATE payments SET state = 'retry_scheduled', next_attempt_at = '2026-11-20', paid_at = NULL
       WHERE id = :payment""",
    "UPDATE payment_attempts SET state = 'not_sent', stripe_charge_id = NULL WHERE payment_id = :payment",
    """UPDATE payment_intents SET closed_reason = NULL, closed_at = NULL, status = 'requires_payment_method',
                                  latest_charge_id = NULL
       WHERE payment_id = :payment""",
)
#: Our records as if an operator had set the payment to paid by hand.
PAID_BY_HAND = """UPDATE payments SET state = 'paid', paid_at = '2026-11-01 12:00Z', next_attempt_at = NULL
                  WHERE id = :payment"""


@dataclass
class Night:
    """One coverage's charges of a day, and the reconciliation run after it."""

    world: World
    account: Account
    card: str
    made: int = field(default=0)

    def charged_payment(self, amount_minor: int = 5_00) -> UUID:
        """A charged payment, equal on both sides."""
        payment = self.world.add_due_payment(self.account, amount_minor)
        self.world.charge(payment)
        assert self.world.payment(payment).state == "paid"
        return payment

    def plant(self, *statements: str, **parameters: object) -> None:
        """Write what the database would refuse, without triggers and foreign keys."""
        with self.world.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                connection.execute(text(statement), parameters)

    # -- at the processor, unknown to us

    def create_unknown_intent(
        self, payment: UUID | str | None, amount_minor: int = 5_00, ordinal: int = 1, **more: Any
    ) -> PaymentIntentSnapshot:
        """An unconfirmed PaymentIntent with our metadata, or none, without a row of ours."""
        self.made += 1
        metadata = {}
        if payment is not None:
            metadata = {
                "duecourse_payment_id": str(payment),
                "duecourse_ordinal": str(ordinal),
                "duecourse_coverage": self.account.coverage,
            }
        parameters = {
            "amount": amount_minor,
            "currency": self.account.currency.lower(),
            "customer": self.world.customer_id(self.account),
            "allowed_payment_method_types": ["card"],
            "metadata": metadata,
            **more,
        }
        gateway = self.world.runtime.gateways[self.account.coverage]
        snapshot = gateway.create_payment_intent(parameters, f"test-{uuid4()}").payment_intent
        assert snapshot is not None
        return snapshot

    def create_unknown_charge(self, payment: UUID | str | None, amount_minor: int = 5_00, **more: Any) -> str:
        """A charge without a row of ours; returns its ID."""
        snapshot = self.create_unknown_intent(payment, amount_minor, **more)
        gateway = self.world.runtime.gateways[self.account.coverage]
        card = "pm_card_visa" if more.get("customer", "") is None else self.card
        answer = gateway.confirm_payment_intent(snapshot.stripe_id, card, f"test-{uuid4()}")
        assert answer.charge_id is not None, answer
        return answer.charge_id

    def lose_create(self, payment: UUID) -> str:
        """Charge a payment whose create is done and its answer lost; return what it left at the processor."""
        gateway, made = self.world.runtime.gateways[self.account.coverage], []
        create = gateway.create_payment_intent

        def create_in_vain(*arguments: Any) -> Answer:
            made.append(create(*arguments).payment_intent)
            return Answer(Outcome.UNKNOWN, "no_answer: timeout")

        gateway.create_payment_intent = create_in_vain  # type: ignore[method-assign]
        self.world.charge(payment)
        gateway.create_payment_intent = create  # type: ignore[method-assign]
        (left,) = made
        assert left is not None
        assert self.world.payment(payment).state == "due"
        return left.stripe_id

    def hide_intents_of_charges(self) -> None:
        """From now on the processor's charges don't name their PaymentIntents."""
        gateway = self.world.runtime.gateways[self.account.coverage]
        page, retrieve = gateway.charge_page, gateway.retrieve_charge

        def charge_page(*arguments: Any) -> Page[ChargeReadBack]:
            listed = page(*arguments)
            return Page(tuple(replace(one, stripe_payment_intent_id=None) for one in listed.items), listed.after)

        def retrieve_charge(stripe_id: str) -> ChargeReadBack:
            return replace(retrieve(stripe_id), stripe_payment_intent_id=None)

        gateway.charge_page = charge_page  # type: ignore[method-assign]
        gateway.retrieve_charge = retrieve_charge  # type: ignore[method-assign]

    def processor_status(self, stripe_id: str) -> str:
        gateway = self.world.runtime.gateways[self.account.coverage]
        snapshot = gateway.retrieve_payment_intent(stripe_id).payment_intent
        assert snapshot is not None
        return snapshot.status

    # -- the run

    def add_run(self, at: datetime = NIGHT) -> UUID:
        """Add the run as the scheduler does."""
        self.world.clock.set(max(self.world.clock.now(), at))
        period = str(at.date())
        with self.world.engine.begin() as connection:
            return add_run(connection, period, self.account.coverage, RECONCILIATION, scheduled_for_at=at)

    def reconcile(self, at: datetime = NIGHT) -> dict[str, Any]:
        """Run the whole reconciliation; return its counts."""
        run_id = self.add_run(at)
        return self.resume(run_id)

    def resume(self, run_id: UUID) -> dict[str, Any]:
        reconcile_charges(self.world.runtime, run_id)
        run = self.run(run_id)
        assert run.state == "finished", (run.state, run.trouble)
        return dict(run.counts)

    def run(self, run_id: UUID) -> Row[Any]:
        with self.world.engine.connect() as connection:
            return connection.execute(text("SELECT * FROM runs WHERE id = :id"), {"id": run_id}).one()

    def findings(self, *, resolved: bool = False) -> list[Row[Any]]:
        """Open findings (or resolved ones), oldest first."""
        condition = "IS NOT NULL" if resolved else "IS NULL"
        query = f"SELECT * FROM findings WHERE resolved_at {condition} ORDER BY created_at"
        with self.world.engine.connect() as connection:
            return list(connection.execute(text(query)))

    def kinds(self) -> list[str]:
        return [finding.kind for finding in self.findings()]

    def receipts(self, payment: UUID) -> list[str]:
        query = text("SELECT stripe_charge_id FROM receipts WHERE payment_id = :payment ORDER BY created_at")
        with self.world.engine.connect() as connection:
            return list(connection.scalars(query, {"payment": payment}))

    def next_night(self, after: datetime = NIGHT) -> datetime:
        return after + timedelta(days=1)
