"""Steps and reads that the tests of write-offs and voids share."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import select

from shared.db.billing_events import Cause
from shared.db.tables.system import billing_events
from shared.domain.refusals import Refused
from shared.domain.states import PaymentState
from shared.messaging.jobs import Job
from shared.payments.operator.close import CloseWithdrawn, request_close, withdraw_close
from shared.reconciliation.verify import Scope, verify
from simulator.issuer.stories import AlwaysDeclines, Pays
from tests.seed import Account
from tests.world import World, api_key
from workers.use_cases.close_payment import close_payment

ANNA = "operator:anna"
VOID, WRITTEN_OFF = PaymentState.VOID, PaymentState.UNCOLLECTIBLE


def account_with_declining_card(world: World, external_id: str = "A-1") -> Account:
    account = world.account(external_id)
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    return account


def request_close_by_operator(
    world: World, payment: UUID, as_: PaymentState = VOID, reason: str = "billed by mistake"
) -> Any:
    with world.engine.begin() as connection:
        return request_close(connection, world.policy, payment, as_, Cause(ANNA, world.clock.now(), reason))


def withdraw_close_by_operator(
    world: World, payment: UUID, reason: str = "it was right"
) -> CloseWithdrawn | Refused:
    with world.engine.begin() as connection:
        return withdraw_close(connection, payment, Cause("operator:bob", world.clock.now(), reason))


def run_close_payment(world: World, payment: UUID) -> None:
    close_payment(world.runtime, payment)


def declined_payment(world: World, account: Account) -> UUID:
    """A payment with a live PaymentIntent that could still be paid."""
    payment = world.add_due_payment(account)
    world.charge(payment)
    assert world.intents(payment)[0].closed_reason is None
    return payment


def due_jobs(world: World) -> set[Job]:
    return set(world.due_jobs(webhook_enqueues_within=timedelta(0)))


def processor_status(world: World, payment: UUID, which: int = 0) -> str:
    intent_id = world.intents(payment)[which].stripe_payment_intent_id
    answer = world.runtime.gateways["global"].retrieve_payment_intent(intent_id)
    assert answer.payment_intent is not None
    return answer.payment_intent.status


def confirm_in_browser(world: World, payment: UUID, account: Account) -> None:
    """The customer pays in the browser with another card; no webhook arrives."""
    card = world.register_card(account, story=Pays())
    (intent,) = world.intents(payment)
    answer = httpx.post(
        f"{world.simulator.url}/v1/payment_intents/{intent.stripe_payment_intent_id}/confirm",
        auth=(api_key("global"), ""),
        data={"payment_method": card.payment_method, "return_url": "https://example.com/back"},
        trust_env=False,
    )
    answer.raise_for_status()


def billing_events_of(world: World, payment: UUID, kind: str) -> list[Any]:
    with world.engine.connect() as connection:
        return list(connection.execute(select(billing_events).filter_by(payment_id=payment, type=kind)))


def assert_verify_is_clean(world: World, payment: UUID) -> None:
    """Run the checks of verify that hold for payments without invoices."""
    report = verify(
        world.engine,
        Scope(now=world.clock.now(), machine_now=world.machine(), forgotten_after=timedelta(0)),
        gateways=None,
        coverages=world.policy.coverages,
    )
    seeded = {"invoice-beside-payment", "events-have-no-gap"}  # these payments were put there without an invoice
    broken = {result.check.name for result in report.results if result.broken} - seeded
    assert broken == set(), payment
