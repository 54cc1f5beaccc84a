"""PostgreSQL fails during a charge: before and after each commit, for a moment and for long."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import DBAPIError

import shared.payments.record_outcome
from shared.db.session import MAX_REPETITIONS, in_transaction
from shared.db.tables.accounts import accounts
from tests.diaries.gates import Gate, Gates
from tests.failures.conftest import (
    Commits,
    assert_paid_once,
    backend_of,
    count_confirms,
    end_session,
    work_until_quiet,
)
from tests.world import World

#: The commits of a first charge, in their order.
CLAIM, ALLOW_CONFIRM, RECORD = range(3)
COMMITS = pytest.mark.parametrize(
    "number", [CLAIM, ALLOW_CONFIRM, RECORD], ids=["claim", "id of the PaymentIntent", "record"]
)


def cut_before(sessions: Engine) -> Callable[[Connection], None]:
    """End the session before its commit arrives: nothing is written."""
    return lambda connection: end_session(sessions, backend_of(connection))


def cut_after(connection: Connection) -> None:
    """Commit, and break the connection before the confirmation arrives."""
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, psycopg.Connection)
    driver.commit()
    driver.pgconn.finish()


@COMMITS
def test_transaction_lost_before_its_commit_is_repeated_and_nothing_is_sent_twice(
    world: World, owed: UUID, commits: Commits, another_session: Engine, number: int
) -> None:
    commits.snapshot, commits.at = 0, {number: cut_before(another_session)}
    world.charge(owed)
    assert commits.snapshot > number, "it was cut"
    assert_paid_once(world, owed)
    assert [attempt.state for attempt in world.attempts(owed)] == ["succeeded"], "no lease had to expire"
    assert count_confirms(world) == 1


@COMMITS
def test_unconfirmed_commit_is_not_treated_as_rolled_back(
    world: World, owed: UUID, commits: Commits, number: int
) -> None:
    commits.snapshot, commits.at = 0, {number: cut_after}
    world.charge(owed)
    assert commits.snapshot > number, "it was cut"
    if number == CLAIM:  # whose attempt it is, is known to nobody now: it waits for its lease
        assert world.captured_amounts(owed) == []
        assert [attempt.state for attempt in world.attempts(owed)] == ["started"]
    work_until_quiet(world)
    assert_paid_once(world, owed)
    assert count_confirms(world) == 1


def test_unwritable_claim_sends_nothing(
    world: World, owed: UUID, commits: Commits, another_session: Engine
) -> None:
    cut = cut_before(another_session)
    commits.snapshot, commits.at = 0, {0: cut, 1: cut}
    with pytest.raises(DBAPIError):
        world.charge(owed)
    assert world.simulator.requests("payment_intents") == []
    assert world.attempts(owed) == []
    world.charge(owed)
    assert_paid_once(world, owed)


def test_payment_intent_with_an_unwritten_id_is_never_confirmed(
    world: World, owed: UUID, commits: Commits, another_session: Engine
) -> None:
    cut = cut_before(another_session)
    commits.snapshot, commits.at = 0, {1: cut, 2: cut}
    with pytest.raises(DBAPIError):
        world.charge(owed)
    assert count_confirms(world) == 0
    work_until_quiet(world)
    assert_paid_once(world, owed)
    assert world.simulator.health()["objects"]["payment_intents"] == 1, "its key found the first one again"


@contextmanager
def database_away(engine: Engine, database_url: str) -> Iterator[Callable[[], None]]:
    """No session is left and none is let in, as during a restart; yields what ends it."""
    name = database_url.rsplit("/", 1)[1]
    with psycopg.connect(database_url.rsplit("/", 1)[0] + "/postgres", autocommit=True) as admin:

        def come_back() -> None:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield come_back
        finally:
            come_back()


def test_answer_survives_a_database_restart(world: World, owed: UUID, gates: Gates, database_url: str) -> None:
    with ThreadPoolExecutor(1) as worker, gates.closed(Gate.ANSWER, "/confirm"):
        charge = worker.submit(world.charge, owed)
        gates.wait_for_request_at(Gate.ANSWER)
        with database_away(world.engine, database_url) as come_back:
            gates.let_go(Gate.ANSWER, gates.standing_at(Gate.ANSWER)[0])
            back = threading.Timer(2.0, come_back)
            back.start()
            charge.result(60)
            back.join()
    assert_paid_once(world, owed)
    assert [kind for kind, _ in world.billing_events(owed) if kind == "attempt_became_unknown"] == [], (
        "no lease ran out"
    )


def test_answer_lost_with_the_database_is_found_after_the_lease(
    world: World, owed: UUID, gates: Gates, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.payments.record_outcome, "WRITE_INSISTS_FOR_S", 0.5)
    with ThreadPoolExecutor(1) as worker, gates.closed(Gate.ANSWER, "/confirm"):
        charge = worker.submit(world.charge, owed)
        gates.wait_for_request_at(Gate.ANSWER)
        with database_away(world.engine, database_url):
            gates.let_go(Gate.ANSWER, gates.standing_at(Gate.ANSWER)[0])
            with pytest.raises(DBAPIError):
                charge.result(60)
    assert [attempt.state for attempt in world.attempts(owed)] == ["started"]
    world.charge(owed)
    assert count_confirms(world) == 1, "the open attempt blocks all others"
    work_until_quiet(world)
    assert_paid_once(world, owed)


def test_both_transactions_of_a_deadlock_finish(world: World) -> None:
    ours = [world.account("A-1"), world.account("A-2")]
    both_hold_one = threading.Barrier(2)
    runs: list[int] = []

    def lock(first: int, second: int, connection: Connection) -> None:
        runs.append(first)
        for number in (first, second):
            connection.execute(select(accounts).where(accounts.c.id == ours[number].id).with_for_update())
            if number == first and len(runs) <= 2:
                both_hold_one.wait(30)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(in_transaction, world.engine, lambda c, a=a: lock(a, 1 - a, c)) for a in (0, 1)]:
            done.result(60)
    assert len(runs) >= 3, "one lost, and did it again"


FAIL_TO_SERIALIZE = """
    CREATE SEQUENCE tries;
    CREATE FUNCTION fail_first() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('tries') <= {times} THEN
            RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure';
        END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER fail_first AFTER {event} ON payment_attempts
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail_first()
"""


@pytest.mark.parametrize("event", ["INSERT", "UPDATE"])
def test_retryable_database_errors_are_retried_and_nothing_is_sent_twice(
    world: World, owed: UUID, event: str
) -> None:
    with world.engine.begin() as connection:
        connection.execute(text(FAIL_TO_SERIALIZE.format(times=3, event=event)))
    world.charge(owed)
    assert_paid_once(world, owed)
    assert count_confirms(world) == 1


def test_retries_of_a_transaction_are_bounded(world: World, owed: UUID) -> None:
    with world.engine.begin() as connection:
        connection.execute(text(FAIL_TO_SERIALIZE.format(times=1_000, event="INSERT")))
    with pytest.raises(DBAPIError):
        world.charge(owed)
    with world.engine.connect() as connection:
        assert connection.scalar(text("SELECT last_value FROM tries")) == MAX_REPETITIONS
    assert world.simulator.requests("payment_intents") == []
