"""An account that another transaction has locked stops no other: month start passes it over and comes back."""

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, create_engine, text

from shared.clock import machine_now
from shared.invoicing import monthly_run
from shared.invoicing.month import Month
from shared.invoicing.monthly_run import LOOK_AGAIN_AFTER, TooManyLockedError
from shared.invoicing.preview import preview_month
from shared.scheduling.due_work import UNFINISHED_RUNS
from tests.invoicing.month_start import MonthStart, add_mixed_accounts, assert_gapless, issued, one, rows
from tests.invoicing.test_runs import ACCOUNTS, INVOICES

#: Each stops a chunk: its settings, or a fee that an import corrects.
LOCKS = {
    "settings": "SELECT FROM payment_settings WHERE account_id = :id FOR UPDATE",
    "fee": "SELECT FROM fees WHERE account_id = :id FOR UPDATE",
}


@pytest.fixture
def world(engine: Engine) -> MonthStart:
    with engine.begin() as connection:
        add_mixed_accounts(connection, ACCOUNTS)
    impatient = create_engine(engine.url.update_query_dict({"options": "-c lock_timeout=200ms"}))  # in service: 2 s
    return MonthStart(impatient, accounts_per_chunk=10)


def nth_account_with_invoice(world: MonthStart, n: int) -> UUID:
    found = rows(
        world.engine,
        """
        SELECT account_id FROM payment_settings s
        WHERE kind = 'card' AND EXISTS (SELECT FROM fees f WHERE f.account_id = s.account_id)
        ORDER BY account_id OFFSET :n LIMIT 1
        """,
        n=n,
    )
    (row,) = found
    account_id: UUID = row["account_id"]
    return account_id


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
@pytest.mark.parametrize(("n", "accounts_per_chunk"), [(0, 10), (17, 10), (17, 1)])
def test_locked_account_is_invoiced_last_and_stops_no_other(
    world: MonthStart, lock: str, n: int, accounts_per_chunk: int
) -> None:
    expected = preview_month(world.engine, Month.of(world.policy, "global", "2026-10")).counts.stored()
    world.accounts_per_chunk, locked = accounts_per_chunk, nth_account_with_invoice(world, n)
    with world.engine.begin() as blocker:
        blocker.execute(text(lock), {"id": locked})
        run_id = world.run()
        found = rows(world.engine, "SELECT account_id FROM invoices")
        assert len(found) == INVOICES - 1
        assert locked not in {row["account_id"] for row in found}
        run = one(world.engine, "SELECT state, trouble, cursor FROM runs")
        assert (run["state"], run["cursor"]["postponed_account_ids"]) == ("running", [str(locked)])
        assert "1 accounts are locked" in run["trouble"]
    world.deliver(run_id)
    with world.engine.begin() as connection:  # the same events as of any run, and that it had to wait
        stalled = "SELECT count(*) FROM billing_events WHERE run_id = :id AND type = 'run_in_trouble'"
        assert connection.scalar(text(stalled), {"id": run_id}) == 1
    assert_gapless(world.engine, "global", INVOICES)
    run = one(world.engine, "SELECT state, counts, trouble FROM runs")
    assert (run["state"], run["counts"], run["trouble"]) == ("finished", expected, None)


def test_run_looks_again_in_a_minute_and_not_before(world: MonthStart) -> None:
    with world.engine.begin() as blocker:
        blocker.execute(text(LOCKS["settings"]), {"id": nth_account_with_invoice(world, 3)})
        before = machine_now()
        world.run()
    backoff_until = one(world.engine, "SELECT backoff_until FROM runs")["backoff_until"]
    assert before + LOOK_AGAIN_AFTER <= backoff_until <= machine_now() + LOOK_AGAIN_AFTER
    with world.engine.connect() as connection:
        for at, is_found in ((backoff_until - timedelta(seconds=1), False), (backoff_until, True)):
            moment = {"machine_now": at, "too_far": at + timedelta(days=1)}
            assert (connection.execute(UNFINISHED_RUNS, moment).first() is not None) == is_found


def test_database_rejects_a_postponed_account_and_no_other_is_blamed(world: MonthStart) -> None:
    locked = nth_account_with_invoice(world, 0)
    with world.engine.begin() as connection:
        connection.execute(
            text(f"ALTER TABLE invoices ADD CONSTRAINT rejects CHECK (account_id <> '{locked}'::uuid)")
        )
    with world.engine.begin() as blocker:
        blocker.execute(text(LOCKS["settings"]), {"id": locked})
        run_id = world.run()
    world.deliver(run_id)
    assert world.counts(run_id)["skipped"]["refused_by_database"] == 1
    finding = one(world.engine, "SELECT subject FROM findings WHERE kind = 'account_not_invoiced'")
    assert finding["subject"] == f"{locked}:2026-10"
    assert_gapless(world.engine, "global", INVOICES - 1)


def test_lock_of_all_accounts_stops_the_run_with_a_reason(
    world: MonthStart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monthly_run, "MAX_POSTPONED", 15)
    with world.engine.begin() as blocker:
        blocker.execute(text("SELECT FROM payment_settings FOR UPDATE"))
        with pytest.raises(TooManyLockedError, match="pg_stat_activity"):
            world.run()
    assert issued(world.engine) == {}
    assert one(world.engine, "SELECT state FROM runs")["state"] == "running"
    world.deliver(one(world.engine, "SELECT id FROM runs")["id"])
    assert_gapless(world.engine, "global", INVOICES)
