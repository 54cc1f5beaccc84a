"""PostgreSQL has no room left (SQLSTATE 53100) when a transaction commits, which is when it first notices."""

from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

import shared.payments.record_outcome
from tests.failures.conftest import assert_paid_once, count_confirms, work_until_quiet
from tests.web.conftest import MakeWeb, make_web  # noqa: F401  # a fixture
from tests.world import World

#: A trigger that is put off until the commit speaks when the disk would: all statements have gone through.
NO_ROOM = """
    CREATE SEQUENCE commits_at_the_disk;
    CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('commits_at_the_disk') <= {commits} THEN
            RAISE EXCEPTION 'could not extend file "base/1/1": No space left on device' USING ERRCODE = 'disk_full';
        END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER no_room AFTER {event} ON {table}
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW {when} EXECUTE FUNCTION no_room()
"""
AT_CLAIM = {"event": "INSERT", "table": "payment_attempts", "when": ""}
AT_ID = {"event": "UPDATE", "table": "payment_attempts", "when": "WHEN (NEW.state = 'started')"}
AT_RECORD = {"event": "UPDATE", "table": "payment_attempts", "when": "WHEN (NEW.state = 'succeeded')"}
AT_STORE = {"event": "INSERT", "table": "stripe_events", "when": ""}


def fill_disk(engine: Engine, when: dict[str, str], commits: int = 1_000_000) -> Callable[[], None]:
    """From now on so many commits of that kind find no room, or until what is returned is called."""

    def make_room() -> None:
        with engine.begin() as connection:
            connection.execute(text("DROP FUNCTION no_room CASCADE"))

    with engine.begin() as connection:
        connection.execute(text(NO_ROOM.format(commits=commits, **when)))
    return make_room


def test_disk_full_at_the_claim_sends_nothing(world: World, owed: UUID) -> None:
    make_room = fill_disk(world.engine, AT_CLAIM)
    for _ in range(3):
        with pytest.raises(OperationalError, match="No space left"):
            world.charge(owed)
    assert world.simulator.requests("payment_intents") == []
    assert world.attempts(owed) == []
    make_room()
    world.charge(owed)
    assert_paid_once(world, owed)


def test_disk_full_before_the_id_is_written_confirms_nothing(world: World, owed: UUID) -> None:
    make_room = fill_disk(world.engine, AT_ID)
    with pytest.raises(OperationalError, match="No space left"):
        world.charge(owed)
    assert count_confirms(world) == 0
    make_room()
    work_until_quiet(world)
    assert_paid_once(world, owed)
    assert world.simulator.health()["objects"]["payment_intents"] == 1


def test_money_is_found_after_a_full_disk_at_recording(
    world: World, owed: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.payments.record_outcome, "WRITE_INSISTS_FOR_S", 0.3)
    make_room = fill_disk(world.engine, AT_RECORD)
    with pytest.raises(OperationalError, match="No space left"):
        world.charge(owed)
    assert [attempt.state for attempt in world.attempts(owed)] == ["started"]
    assert world.captured_amounts(owed) == [5_00]
    world.machine.advance(minutes=6)
    with pytest.raises(OperationalError, match="No space left"):  # a look-up that can't be written either
        world.settle(world.attempts(owed)[0].id)
    assert count_confirms(world) == 1
    make_room()
    work_until_quiet(world)
    assert_paid_once(world, owed)
    assert count_confirms(world) == 1


def test_short_full_disk_at_recording_costs_nothing(world: World, owed: UUID) -> None:
    fill_disk(world.engine, AT_RECORD, commits=3)
    world.charge(owed)
    assert_paid_once(world, owed)
    with world.engine.connect() as connection:
        assert connection.scalar(text("SELECT last_value FROM commits_at_the_disk")) == 4
    assert "attempt_became_unknown" not in [kind for kind, _ in world.billing_events(owed)]


def test_disk_full_at_a_webhook_makes_stripe_send_it_again(
    make_web: MakeWeb,  # noqa: F811
    engine: Engine,
) -> None:
    web = make_web()
    make_room = fill_disk(engine, AT_STORE)
    assert web.post_signed() == 503
    assert web.stored() == []
    make_room()
    assert web.post_signed() == 200
    assert len(web.stored()) == 1
