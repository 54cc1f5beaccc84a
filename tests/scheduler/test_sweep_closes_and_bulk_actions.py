"""The sweep finds pending closes and unfinished bulk actions."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, insert

from shared.db.tables.operators import bulk_actions
from shared.domain.states import AttemptState, PaymentState
from shared.messaging.jobs import ApplyBulkAction, ClosePayment
from tests.scheduler.conftest import MachineTime
from tests.scheduler.test_sweep import HOUR, NOW, add_attempt, due_jobs
from tests.seed import Account, add_account, add_card, add_payment


@pytest.fixture
def account(engine: Engine) -> Account:
    with engine.begin() as connection:
        return add_account(connection, "A-1")


@pytest.mark.parametrize("state", [PaymentState.DUE, PaymentState.RETRY_SCHEDULED, PaymentState.AWAITING_TRANSFER])
def test_payment_with_a_pending_close_is_closed_and_not_charged_in_any_state(
    engine: Engine, account: Account, machine: MachineTime, state: PaymentState
) -> None:
    with engine.begin() as connection:
        payment_id = add_payment(
            connection,
            account,
            100,
            state=state,
            pending_close_as="void",
            held_until=NOW + HOUR,
            backoff_until=machine() + timedelta(seconds=10),
        )
    assert due_jobs(engine, machine()) == set(), "it backs off from an outage"
    assert due_jobs(engine, machine.advance(10)) == {ClosePayment(payment_id)}
    with engine.begin() as connection:
        add_attempt(connection, account, payment_id, AttemptState.STARTED, lease_expires_at=machine() + HOUR)
    assert due_jobs(engine, machine()) == set(), "its cancellation is in progress"


def test_payment_with_a_pending_close_is_not_woken_by_a_card(
    engine: Engine, account: Account, machine: MachineTime
) -> None:
    with engine.begin() as connection:
        payment_id = add_payment(
            connection,
            account,
            100,
            state=PaymentState.NEEDS_PAYMENT_METHOD,
            waiting_for_revision_after=0,
            pending_close_as="uncollectible",
        )
        add_card(connection, account)
    assert due_jobs(engine, machine()) == {ClosePayment(payment_id)}


@pytest.mark.parametrize(("state", "is_due"), [("running", True), ("stopped", False), ("finished", False)])
def test_bulk_action_is_enqueued_until_finished_or_stopped(
    engine: Engine, machine: MachineTime, state: str, is_due: bool
) -> None:
    with engine.begin() as connection:
        bulk_id = connection.execute(
            insert(bulk_actions)
            .values(
                action="void",
                filter={},
                parameters={},
                reason="why",
                requested_by="operator:anna",
                requested_at=NOW,
                state=state,
                digest="",
                sums={},
                expected=0,
                counts={},
            )
            .returning(bulk_actions.c.id)
        ).scalar_one()
    assert due_jobs(engine, machine()) == ({ApplyBulkAction(bulk_id)} if is_due else set())
