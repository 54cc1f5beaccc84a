"""Claim, create, commit the ID, confirm, record: what is committed between any two phases."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg.errors
import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from shared.db.billing_events import Cause
from shared.db.session import MAX_REPETITIONS, in_transaction
from shared.domain.states import Lane, Trigger
from shared.gateway.port import Answer, Outcome, ProcessorGateway
from shared.payments.claim import Claimed, NotClaimed, claim_charge
from shared.payments.locked_rows import lock_payment
from shared.payments.record_outcome import record_answer, record_observation
from shared.payments.state_changes import make_due_now
from simulator.faults.hooks import Arrival, NoFaults
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays
from tests.invoicing.month_start import wait_for_waiter
from tests.seed import Account
from tests.world import World, make_gateways, running_world
from workers.use_cases.charge_payment import _request

#: Sessions of this database that are idle in a transaction.
OPEN_TRANSACTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'
"""


class Watched:
    """The real gateway with a callback before each request."""

    def __init__(self, gateway: ProcessorGateway, before: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._before = before

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._gateway, name)

        def call(*arguments: Any) -> Any:
            self._before(name)
            return method(*arguments)

        return call


@pytest.fixture
def account(world: World) -> Account:
    account = world.account("A-1")
    world.add_primary_card(account)
    return account


@pytest.fixture
def other_engine(engine: Engine) -> Iterator[Engine]:
    """Connections of another session, which sees only committed rows."""
    other = create_engine(engine.url, isolation_level="AUTOCOMMIT")
    yield other
    other.dispose()


def watch(world: World, before: Callable[[str], None]) -> None:
    gateway = Watched(world.runtime.gateways["global"], before)
    world.runtime = replace(world.runtime, gateways={**world.runtime.gateways, "global": gateway})


def test_attempt_is_committed_and_no_transaction_is_open_when_a_request_leaves(
    world: World, other_engine: Engine
) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=DeclinesThenPays(times=1, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    snapshot: list[tuple[str, int, str | None, int]] = []

    def look(request: str) -> None:
        with other_engine.connect() as connection:
            still_open = connection.execute(text(OPEN_TRANSACTIONS)).scalar_one()
            state = connection.scalar(text("SELECT state FROM payment_attempts ORDER BY number DESC LIMIT 1"))
            known = connection.execute(
                text("SELECT count(*) FROM payment_intents WHERE stripe_payment_intent_id IS NOT NULL")
            ).scalar_one()
        snapshot.append((request, still_open, state, known))

    watch(world, look)
    world.charge(payment)
    world.clock.set(world.payment(payment).next_attempt_at)
    world.charge(payment)
    assert snapshot == [
        ("create_payment_intent", 0, "started", 0),
        ("confirm_payment_intent", 0, "started", 1),  # its ID is committed before it can move money
        ("confirm_payment_intent", 0, "started", 1),
    ]
    assert world.captured_amounts(payment) == [5_00]


def test_reading_from_the_processor_holds_no_transaction_open(
    world: World, account: Account, other_engine: Engine
) -> None:
    open_transactions: list[int] = []

    def look(request: str) -> None:
        if request == "confirm_payment_intent":
            raise ConnectionError("the worker is gone")
        if request == "retrieve_payment_intent":
            with other_engine.connect() as connection:
                open_transactions.append(connection.execute(text(OPEN_TRANSACTIONS)).scalar_one())

    watch(world, look)
    payment = world.add_due_payment(account)
    with pytest.raises(ConnectionError):
        world.charge(payment)
    world.machine.advance(minutes=5, seconds=1)
    world.settle(world.attempts(payment)[0].id)
    assert open_transactions == [0]
    assert world.attempts(payment)[0].state == "not_sent"


class Counting(NoFaults):
    """Counts arriving confirms; none is answered in time."""

    def __init__(self) -> None:
        self.confirms = 0

    async def before_apply(self, arrival: Arrival) -> None:
        if arrival.path.endswith("/confirm"):
            self.confirms += 1
            await asyncio.sleep(1)


def test_request_with_a_lost_answer_is_sent_once(engine: Engine) -> None:
    """The SDK could retry by itself; then the number of charges at the issuer would be unknown."""
    counting = Counting()
    with running_world(engine, faults=counting) as world:
        account = world.account("A-1")
        world.add_primary_card(account)
        payment = world.add_due_payment(account)
        impatient = make_gateways(world.simulator.url, ["global"], read_timeout_s=0.3)
        world.runtime = replace(world.runtime, gateways=impatient)
        world.charge(payment)
        assert world.attempts(payment)[0].state == "unknown"
        assert counting.confirms == 1


def test_create_moves_no_money(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)

    def stop_before_the_confirm(request: str) -> None:
        if request == "confirm_payment_intent":
            raise ConnectionError("the worker is gone")

    watch(world, stop_before_the_confirm)
    with pytest.raises(ConnectionError):
        world.charge(payment)
    assert world.simulator.health()["objects"]["payment_intents"] == 1
    assert world.captured_amounts(payment) == []


def test_settlement_skips_an_attempt_until_its_lease_expires(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    claimed = claim(world, payment)
    world.machine.advance(minutes=4, seconds=59)
    world.settle(claimed.attempt_id)
    assert world.attempts(payment)[0].state == "started"
    world.machine.advance(seconds=1)
    world.settle(claimed.attempt_id)
    assert world.attempts(payment)[0].state == "not_sent"


def test_decline_webhook_does_not_close_an_attempt_inside_its_lease(world: World) -> None:
    """It may be about the previous attempt: only the own answer, or settlement after the lease, closes one."""
    account = world.account("A-1")
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    (intent,) = world.intents(payment)
    news = world.runtime.gateways["global"].retrieve_payment_intent(intent.stripe_payment_intent_id)
    world.clock.set(world.payment(payment).next_attempt_at)
    claim(world, payment)
    record_observation(world.runtime, intent.id, news, actor="stripe")
    assert [row.state for row in world.attempts(payment)] == ["declined", "started"]
    assert world.payment(payment).decline_count == 1


def test_claims_on_one_card_are_serialized(world: World) -> None:
    """Nine of ten allowed attempts are used up; two workers claim the tenth at once."""
    card = world.simulator.make_card(
        "global", AlwaysDeclines(decline_code="insufficient_funds"), brand="mastercard"
    )
    accounts = [world.account(f"A-{number}") for number in range(11)]
    owed = []
    for account in accounts:
        world.add_primary_card(account, card.token, brand="mastercard")
        owed.append(world.add_due_payment(account))
    for payment in owed[:9]:
        world.charge(payment)

    def claim_it(connection: Connection) -> Claimed | NotClaimed:
        return claim_charge(connection, world.runtime, owed[10])

    with world.engine.connect() as first, ThreadPoolExecutor(1) as pool:
        assert isinstance(claim_charge(first, world.runtime, owed[9]), Claimed)
        second = pool.submit(in_transaction, world.engine, claim_it)
        wait_for_waiter(world.engine, "locktype = 'advisory'")
        first.commit()
        refused = second.result(60)
    assert isinstance(refused, NotClaimed)
    assert "the network allows 10" in refused.reason
    assert world.attempts(owed[10]) == []


def test_second_claim_waits_for_the_first_and_finds_its_attempt(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)

    def claim_it(connection: Connection) -> Claimed | NotClaimed:
        return claim_charge(connection, world.runtime, payment)

    with world.engine.connect() as first, ThreadPoolExecutor(1) as pool:
        assert isinstance(claim_charge(first, world.runtime, payment), Claimed)
        second = pool.submit(in_transaction, world.engine, claim_it)
        wait_for_waiter(world.engine)
        first.commit()
        assert second.result(60) == NotClaimed("has an open attempt")


def test_open_attempt_counts_in_the_card_budget(world: World) -> None:
    card = world.simulator.make_card("global", brand="mastercard")
    for number in range(10):
        account = world.account(f"A-{number}")
        world.add_primary_card(account, card.token, brand="mastercard")
        claim(world, world.add_due_payment(account))
    last = world.account("A-last")
    world.add_primary_card(last, card.token, brand="mastercard")
    payment = world.add_due_payment(last)
    world.charge(payment)
    assert world.attempts(payment) == []
    assert "the network allows 10" in world.payment(payment).state_reason


def test_operator_charge_is_refused_while_an_attempt_is_open(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    claim(world, payment)
    with world.engine.begin() as connection:
        cause = Cause("operator:anna", world.clock.now(), "customer called")
        assert not make_due_now(
            connection, lock_payment(connection, payment), Lane.INTERACTIVE, Trigger.OPERATOR, cause
        )


def test_deadlock_loser_repeats_its_transaction(world: World) -> None:
    first, second = (world.add_due_payment(world.account(f"A-{number}")) for number in range(2))
    both_hold_one = threading.Barrier(2)

    def lock_both(one: UUID, other: UUID) -> int:
        runs = 0

        def work(connection: Connection) -> None:
            nonlocal runs
            runs += 1
            lock_payment(connection, one)
            if runs == 1:
                both_hold_one.wait(60)
            lock_payment(connection, other)

        in_transaction(world.engine, work)
        return runs

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(lock_both, first, second), pool.submit(lock_both, second, first)]
        assert sum(one.result(60) for one in done) >= 3, "both came through, and one of them needed a second run"


def test_transaction_that_always_deadlocks_is_given_up(engine: Engine) -> None:
    runs = 0

    def work(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'deadlock_detected'; END $$"))

    with pytest.raises(DBAPIError) as given_up:
        in_transaction(engine, work)
    assert isinstance(given_up.value.orig, psycopg.errors.DeadlockDetected)
    assert runs == MAX_REPETITIONS


def test_transaction_on_a_broken_connection_is_repeated_once(engine: Engine, other_engine: Engine) -> None:
    runs = 0

    def work(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        if runs == 1:
            with other_engine.connect() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid, 60000)"), {"pid": pid})
        return int(connection.execute(text("SELECT 7")).scalar_one())

    assert in_transaction(engine, work) == 7
    assert runs == 2


def test_second_charge_of_a_paid_payment_is_booked_and_reported(world: World, account: Account) -> None:
    """Our code can't cause it. If it happens, the money is recorded and an operator sees a finding."""
    payment = world.add_due_payment(account)
    world.charge(payment)
    (intent,) = world.intents(payment)
    gateway = world.runtime.gateways["global"]
    snapshot = gateway.retrieve_payment_intent(intent.stripe_payment_intent_id).payment_intent
    assert snapshot is not None
    another = replace(snapshot, latest_charge_id="ch_another", amount_received_minor=4_00)
    for _ in range(2):  # reported twice, found once
        record_observation(
            world.runtime, intent.id, Answer(Outcome.SUCCEEDED, "seen", payment_intent=another), actor="stripe"
        )
    with world.engine.connect() as connection:
        receipts = connection.execute(text("SELECT amount_minor FROM receipts ORDER BY amount_minor"))
        findings = connection.execute(text("SELECT kind, subject FROM findings ORDER BY kind"))
        assert [row.amount_minor for row in receipts] == [4_00, 5_00]
        assert [tuple(row) for row in findings] == [
            ("amount_differs", "ch_another"),
            ("paid_more_than_once", "ch_another"),
        ]
    assert world.payment(payment).state == "paid"


def test_only_one_of_two_confirming_workers_takes_the_money(world: World, account: Account) -> None:
    """The first froze past its lease right before its confirm; its successor is about to send its own."""
    payment = world.add_due_payment(account)
    successors: list[Claimed] = []

    def stand_still(request: str) -> None:
        if request == "confirm_payment_intent" and not successors:
            world.machine.advance(minutes=5, seconds=1)
            world.settle(world.attempts(payment)[0].id)
            world.machine.advance(seconds=30)
            successors.append(claim(world, payment))

    watch(world, stand_still)
    world.charge(payment)
    answer = _request(world.runtime, successors[0])
    assert answer is not None
    record_answer(world.runtime, successors[0].attempt_id, answer)
    assert [row.state for row in world.attempts(payment)] == ["succeeded", "not_sent"]
    assert world.captured_amounts(payment) == [5_00]
    with world.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM receipts")) == 1


def claim(world: World, payment: UUID) -> Claimed:
    claimed = in_transaction(world.engine, lambda connection: claim_charge(connection, world.runtime, payment))
    assert isinstance(claimed, Claimed)
    return claimed
