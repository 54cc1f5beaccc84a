"""Duecourse's own gateway on a simulator whose faults a test scripts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from shared.gateway.port import Answer
from shared.gateway.stripe_gateway import StripeGateway
from simulator.client import LedgerLine, RegisteredCard, SimulatorClient
from simulator.faults.rules import FaultRule
from simulator.issuer.stories import Story

#: Seconds; far above one request on a busy machine, so that only a fault takes longer.
READ_TIMEOUT_S = 60.0


def gateway(sim: SimulatorClient, account: str = "global", read_timeout_s: float = READ_TIMEOUT_S) -> StripeGateway:
    return StripeGateway(
        f"sk_test_sim_{account}",
        api_base=sim.url,
        requests_per_s=10_000,
        connect_timeout_s=READ_TIMEOUT_S,
        read_timeout_s=read_timeout_s,
    )


@dataclass
class Payment:
    """One customer with a card, and a PaymentIntent that waits for its confirmation."""

    sim: SimulatorClient
    gateway: StripeGateway
    card: RegisteredCard
    intent: str
    account: str = "global"
    key: str = field(default_factory=lambda: str(uuid4()))

    def confirm(self, key: str | None = None) -> Answer:
        return self.gateway.confirm_payment_intent(self.intent, self.card.payment_method, key or self.key)

    def cancel(self, key: str | None = None) -> Answer:
        return self.gateway.cancel_payment_intent(self.intent, key or f"cancel-{self.key}")

    def retrieve(self) -> Answer:
        return self.gateway.retrieve_payment_intent(self.intent)

    def status(self) -> str:
        """The PaymentIntent's status at the processor."""
        self.sim.clear_faults()
        seen = self.retrieve().payment_intent
        assert seen is not None
        return seen.status

    def captured(self) -> list[int]:
        """Captured amounts in the processor's ledger, in minor units."""
        return [line.amount for line in lines_of(self.sim, self.card.customer)]

    def script_fault(self, kind: str, **fields: Any) -> None:
        """Script a fault for this customer only."""
        self.sim.add_faults([FaultRule(kind, account=self.account, customer=self.card.customer, **fields)])


def lines_of(sim: SimulatorClient, customer: str) -> list[LedgerLine]:
    return [line for line in sim.ledger() if line.customer == customer]


def new_payment(sim: SimulatorClient, story: Story | None = None, *, account: str = "global") -> Payment:
    ask = gateway(sim, account)
    customer = ask.create_customer({}, str(uuid4()))
    card = sim.register_card(account, customer, sim.make_card(account, story).token)
    return Payment(sim, ask, card, create(ask, customer), account)


def create(ask: StripeGateway, customer: str, amount: int = 500) -> str:
    answer = ask.create_payment_intent(parameters(customer, amount), str(uuid4()))
    assert answer.payment_intent is not None
    return answer.payment_intent.stripe_id


def parameters(customer: str, amount: int = 500) -> dict[str, Any]:
    return {
        "amount": amount,
        "currency": "usd",
        "customer": customer,
        "capture_method": "automatic",
        "allowed_payment_method_types": ["card"],
    }


@contextmanager
def counting(sim: SimulatorClient, kind: str, count: int = 1) -> Iterator[None]:
    """Assert that the fault hits exactly so often within the block."""
    before = sim.fault_counts()
    yield
    after = sim.fault_counts()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == (
        {kind: count} if count else {}
    )
