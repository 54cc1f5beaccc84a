"""An account with bad data is skipped and reported, stops no other account, and is billed once it is fixed."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from shared.db.billing_events import Cause
from shared.domain.money import MAX_AMOUNT_MINOR, MAX_CHARGE_MINOR
from shared.invoicing.bills import SkipReason
from shared.invoicing.month import Month
from shared.invoicing.monthly_run import MAX_REFUSED, TooManyRefusedError
from shared.invoicing.preview import preview_month
from shared.scheduling.runs import reopen_run
from tests import seed
from tests.invoicing.month_start import NOVEMBER, MonthStart, add_mixed_accounts, assert_gapless, issued, one, rows


@pytest.fixture
def world(engine: Engine) -> MonthStart:
    with engine.begin() as connection:
        add_mixed_accounts(connection, 35)
    return MonthStart(engine)


def findings(engine: Engine) -> list[dict[str, Any]]:
    return rows(engine, "SELECT * FROM findings WHERE kind = 'account_not_invoiced' ORDER BY subject")


def run_again(world: MonthStart, run_id: UUID) -> None:
    with world.engine.begin() as connection:
        assert reopen_run(connection, run_id, Cause("operator:ann", NOVEMBER, "fixed"))
    world.deliver(run_id)


def test_overflowing_total_is_reported_and_skipped(world: MonthStart) -> None:
    with world.engine.begin() as connection:
        big = seed.add_account(connection, "big")
        seed.add_fee(connection, big, MAX_AMOUNT_MINOR, external_id="huge")
        seed.add_fee(connection, big, 1)
        daily = seed.add_account(connection, "daily")
        seed.add_service(connection, daily, MAX_AMOUNT_MINOR, "daily")
        just = seed.add_account(connection, "just", kind="bank_transfer")
        seed.add_fee(connection, just, MAX_AMOUNT_MINOR)
        monthly = seed.add_account(connection, "monthly", kind="bank_transfer")
        seed.add_service(connection, monthly, MAX_AMOUNT_MINOR)
    run_id = world.run()
    assert world.counts(run_id)["skipped"]["amount_too_large"] == 2
    assert issued(world.engine)["just"]["total_minor"] == MAX_AMOUNT_MINOR
    assert issued(world.engine)["monthly"]["total_minor"] == MAX_AMOUNT_MINOR
    assert_gapless(world.engine, "global", 25 + 2)
    found = {finding["subject"]: finding for finding in findings(world.engine)}
    assert set(found) == {f"{account.id}:2026-10" for account in (big, daily)}
    assert "huge" in found[f"{big.id}:2026-10"]["details"]["lines"]
    told = one(world.engine, "SELECT * FROM billing_events WHERE account_id = :id", id=big.id)
    assert (told["type"], told["reason"].partition(":")[0]) == ("invoice_not_issued", "amount_too_large")


def test_total_above_what_stripe_charges_is_reported_and_never_sent(world: MonthStart) -> None:
    with world.engine.begin() as connection:
        most, over = seed.add_account(connection, "most"), seed.add_account(connection, "over")
        seed.add_fee(connection, most, MAX_CHARGE_MINOR)
        seed.add_fee(connection, over, MAX_CHARGE_MINOR)
        seed.add_fee(connection, over, 1)
    run_id = world.run()
    assert world.counts(run_id)["skipped"]["amount_too_large"] == 1
    assert issued(world.engine)["most"]["total_minor"] == MAX_CHARGE_MINOR
    assert [finding["subject"] for finding in findings(world.engine)] == [f"{over.id}:2026-10"]


def test_fee_in_another_currency_is_reported_and_billed_once_fixed(world: MonthStart) -> None:
    with world.engine.begin() as connection:
        anna = seed.add_account(connection, "anna")
        seed.add_fee(connection, anna, 29_85)
        seed.add_fee(connection, anna, 500, currency="EUR", external_id="euro-fee")
    run_id = world.run()
    assert "anna" not in issued(world.engine)
    (finding,) = findings(world.engine)
    assert finding["details"]["reason"] == "currency_mismatch"
    assert finding["details"]["lines"][0] == "euro-fee"

    run_again(world, run_id)
    assert len(findings(world.engine)) == 1
    assert findings(world.engine)[0]["resolved_at"] is None
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE fees SET currency = 'USD' WHERE external_id = 'euro-fee'"))
    run_again(world, run_id)
    assert issued(world.engine)["anna"]["total_minor"] == 29_85 + 500
    assert findings(world.engine)[0]["resolved_by"] == "worker"
    assert_gapless(world.engine, "global", 25 + 1)


def test_account_without_payment_settings_is_reported(world: MonthStart) -> None:
    with world.engine.begin() as connection:
        fees_only = seed.add_account(connection, "fees-only", "japan")
        seed.add_fee(connection, seed.Account(fees_only.id, fees_only.settings_id, "fees-only", "global"), 29_85)
        service_only = seed.add_account(connection, "service-only", "japan")
        seed.add_service(connection, seed.Account(service_only.id, service_only.settings_id, "", "global"), 5_00)
    run_id = world.run()
    assert world.counts(run_id)["skipped"]["no_payment_settings"] == 2
    assert world.counts(run_id)["accounts_seen"] == 35
    assert {finding["details"]["account_id"] for finding in findings(world.engine)} == {
        str(fees_only.id),
        str(service_only.id),
    }


@pytest.mark.parametrize("chunk", [1, 2, 7, 1_000])
def test_account_rejected_by_the_database_is_skipped_alone(world: MonthStart, chunk: int) -> None:
    with world.engine.begin() as connection:
        connection.execute(
            text("""
                ALTER TABLE invoices ADD CONSTRAINT not_these
                    CHECK (billing_snapshot ->> 'account_external_id' NOT IN ('global-0006', 'global-0021'))
            """)
        )
    world.accounts_per_chunk = chunk
    run_id = world.run()
    counts = world.counts(run_id)
    assert counts["skipped"]["refused_by_database"] == 2
    assert (counts["accounts_seen"], counts["invoices"]) == (35, 23)
    assert_gapless(world.engine, "global", 23)
    assert {(f["details"]["sqlstate"], f["details"]["constraint"]) for f in findings(world.engine)} == {
        ("23514", "not_these")
    }
    assert "Account" not in str(findings(world.engine))  # PostgreSQL's own text would show the whole row


def test_run_stops_when_the_database_rejects_all_and_resumes_once_fixed(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        for index in range(MAX_REFUSED + 5):
            seed.add_fee(connection, seed.add_account(connection, f"A{index}"), 100)
        connection.execute(text("ALTER TABLE payments ADD CONSTRAINT nobody CHECK (kind <> 'monthly')"))
    with pytest.raises(TooManyRefusedError, match="nobody"):
        world.run()
    run = one(engine, "SELECT * FROM runs")
    assert (run["state"], run["counts"]["skipped"]) == ("running", {"refused_by_database": MAX_REFUSED})
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE payments DROP CONSTRAINT nobody"))
    world.deliver(run["id"])
    run_again(world, run["id"])
    assert_gapless(engine, "global", MAX_REFUSED + 5)
    assert all(finding["resolved_at"] for finding in findings(engine))


def test_the_preview_names_the_skipped_accounts(world: MonthStart) -> None:
    with world.engine.begin() as connection:
        seed.add_fee(connection, seed.add_account(connection, "euro"), 500, currency="EUR")
        stray = seed.add_account(connection, "stray", "japan")
        seed.add_fee(connection, seed.Account(stray.id, stray.settings_id, "stray", "global"), 29_85)
    preview = preview_month(world.engine, Month.of(world.policy, "global", "2026-10"))
    assert preview.skipped[SkipReason.CURRENCY_MISMATCH] == ["euro"]
    assert preview.skipped[SkipReason.NO_PAYMENT_SETTINGS] == ["stray"]
    assert len(preview.skipped[SkipReason.TRIAL]) == preview.counts.skipped["trial"] == 5
    run_id = world.run()
    assert world.counts(run_id) == preview.counts.stored()
