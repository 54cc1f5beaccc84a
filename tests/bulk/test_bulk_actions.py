"""A bulk action applies the confirmed preview, each payment once, by the single action; it can be stopped."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from shared.bulk import lifecycle, progress
from shared.bulk.actions import BulkAction
from shared.bulk.lifecycle import BEGIN_LOCK, PreviewChanged, Started
from shared.bulk.progress import CHUNK
from shared.db.billing_events import Cause
from shared.db.tables.payments import payments
from shared.domain.refusals import Refused
from shared.failpoints import Crashed, Failpoint, armed, crashing_at
from shared.messaging.jobs import ApplyBulkAction, ChargePayment, ClosePayment
from shared.operations.audit_log import AuditAction
from shared.payments.operator.hold import hold_payment
from shared.runtime import Runtime
from simulator.issuer.stories import AlwaysDeclines
from tests.bulk.company import ANNA, Desk
from tests.invoicing.month_start import wait_for_waiter
from workers import use_cases


def due(desk: Desk) -> set[Any]:
    return set(desk.world.due_jobs())


def hasty(desk: Desk, seconds: float) -> Runtime:
    """A worker whose clock advances at each read, so that its time is up after a chunk."""
    began = desk.world.machine()
    ticks = (began + timedelta(seconds=seconds * number) for number in range(1_000))
    return replace(desk.world.runtime, machine_now=lambda: next(ticks))


def many(desk: Desk, number: int, each: int = 10) -> None:
    """Payments of five dollars and more, ten to an account, all amounts different."""
    for start in range(0, number, each):
        amounts = [5_00 + place for place in range(start, min(start + each, number))]
        desk.account(f"A-{start}", amounts)


# -- the confirmed preview is what is done


def test_five_hundred_payments_are_charged_once_each(desk: Desk) -> None:
    many(desk, 500)
    bulk_id = desk.begin(BulkAction.CHARGE)
    assert desk.bulk(bulk_id).counts == {"waiting": 500, "done": 0, "refused": 0, "stopped": 0}
    desk.world.enqueued.append(ApplyBulkAction(bulk_id))
    desk.do_enqueued()
    assert desk.captured_amounts() == {payment: [amount] for payment, amount in desk.amounts().items()}
    bulk = desk.bulk(bulk_id)
    assert (bulk.state, bulk.finished_at, bulk.expected) == ("finished", desk.world.clock.now(), 500)
    assert bulk.counts == {"waiting": 0, "done": 500, "refused": 0, "stopped": 0}
    assert set(desk.items(bulk_id).values()) == {("done", None)}
    assert due(desk) == set()


def test_each_item_is_applied_like_the_single_action_with_actor_and_reason(desk: Desk) -> None:
    desk.account("A-1", [5_00])
    bulk_id = desk.begin(BulkAction.CHARGE, reason="the outage is over")
    desk.apply(bulk_id)
    (payment,) = desk.amounts()
    (moved,) = (row for row in desk.billing_events("payment_rescheduled") if row.payment_id == payment)
    assert (moved.actor, moved.reason) == (ANNA, "the outage is over")
    row = desk.world.payment(payment)
    assert (row.lane, row.trigger, row.requested_by) == ("batch", "operator", ANNA), "it is on the batch queue"
    assert desk.world.enqueued == [ChargePayment(payment, "batch")]


@pytest.mark.parametrize(
    ("action", "states"),
    [(BulkAction.WRITE_OFF, ["uncollectible"] * 2), (BulkAction.VOID, ["void"] * 2)],
)
def test_bulk_close_cancels_live_payment_intents(desk: Desk, action: BulkAction, states: list[str]) -> None:
    account = desk.account("A-1", [5_00, 7_00])
    charged = _oldest(desk)
    desk.world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    desk.world.charge(charged)
    bulk_id = desk.begin(action)
    desk.apply(bulk_id)
    assert desk.items(bulk_id)[charged] == ("done", "as soon as its PaymentIntent is canceled")
    assert desk.world.enqueued == [ClosePayment(charged)]
    desk.do_enqueued()
    assert desk.states() == states
    assert desk.world.intents(charged)[0].closed_reason == "canceled"


def _oldest(desk: Desk) -> UUID:
    """The payment that the calendar charges first."""
    return min(desk.amounts(), key=lambda payment: desk.world.payment(payment).created_at)


def test_bulk_hold_is_released_by_bulk_release(desk: Desk) -> None:
    desk.account("A-1", [5_00])
    desk.account("A-2", [7_00])
    held = desk.begin(BulkAction.HOLD, until=date(2026, 11, 20))
    desk.apply(held)
    assert due(desk) == set()
    payment = min(desk.amounts())
    assert desk.world.payment(payment).state_reason == "month end (held by operator:anna until 2026-11-20)"
    assert desk.bulk(held).parameters == {"until": "2026-11-20"}
    released = desk.begin(BulkAction.RELEASE)
    desk.apply(released)
    assert len(due(desk)) == 2


@pytest.mark.parametrize("until", [date(2026, 11, 1), date(2027, 11, 3)])
def test_bulk_hold_with_invalid_date_is_refused(desk: Desk, until: date) -> None:
    desk.account("A-1", [5_00])
    answer = desk.confirm(BulkAction.HOLD, desk.preview(BulkAction.HOLD).digest, until=until)
    assert isinstance(answer, Refused)
    assert "isn't a day within the next 366" in answer.reason


def test_changed_preview_is_not_started_and_shown_again(desk: Desk) -> None:
    account = desk.account("A-1", [5_00])
    snapshot = desk.preview(BulkAction.CHARGE)
    desk.world.add_due_payment(account, 9_00)
    answer = desk.confirm(BulkAction.CHARGE, snapshot.digest)
    assert isinstance(answer, PreviewChanged)
    assert (answer.now.count, answer.now.sums) == (2, {"USD": 14_00})
    with desk.world.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM bulk_actions")).scalar_one() == 0
    assert isinstance(desk.confirm(BulkAction.CHARGE, answer.now.digest), Started)


def test_change_between_preview_and_insert_is_not_started(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One statement writes the items; its result is compared with the preview."""
    account = desk.account("A-1", [5_00])
    look = lifecycle.preview

    def preview_and_commit_elsewhere(*arguments: Any) -> Any:
        found = look(*arguments)
        desk.world.add_due_payment(account, 9_00)
        return found

    monkeypatch.setattr(lifecycle, "preview", preview_and_commit_elsewhere)
    answer = desk.confirm(BulkAction.CHARGE, desk.preview(BulkAction.CHARGE).digest)
    assert isinstance(answer, PreviewChanged)
    with desk.world.engine.connect() as connection:
        for table in ("bulk_actions", "bulk_items"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0


def test_empty_selection_and_missing_reason_are_refused(desk: Desk) -> None:
    assert isinstance(desk.confirm(BulkAction.CHARGE, desk.preview(BulkAction.CHARGE).digest), Refused)
    desk.account("A-1", [5_00])
    digest = desk.preview(BulkAction.CHARGE).digest
    assert isinstance(desk.confirm(BulkAction.CHARGE, digest, reason=" "), Refused)
    assert isinstance(desk.confirm(BulkAction.CHARGE, digest), Started)


def test_second_of_two_concurrent_confirmations_is_refused_with_the_name_of_the_first(desk: Desk) -> None:
    many(desk, 20)
    digest = desk.preview(BulkAction.CHARGE).digest
    engine = desk.world.engine
    with ThreadPoolExecutor(2) as people, engine.connect() as gate:
        gate.execute(select(text(f"pg_advisory_xact_lock({BEGIN_LOCK})")))
        both = [people.submit(desk.confirm, BulkAction.CHARGE, digest, who) for who in (ANNA, "operator:bob")]
        wait_for_waiter(engine, "(SELECT count(*) FROM pg_locks w WHERE NOT w.granted) >= 2")
        gate.commit()
        answers = [one.result() for one in both]
    (begun,) = (one for one in answers if isinstance(one, Started))
    (changed,) = (one for one in answers if isinstance(one, PreviewChanged))
    (left_out,) = changed.now.left_out
    assert changed.now.count == 0
    assert (left_out.why, left_out.count, left_out.bulk_id) == ("elsewhere", 20, begun.bulk_id)
    assert left_out.who == desk.bulk(begun.bulk_id).requested_by
    desk.apply(begun.bulk_id)
    desk.do_enqueued()
    assert desk.captured_amounts() == {payment: [amount] for payment, amount in desk.amounts().items()}


def test_items_changed_after_the_start_are_refused_and_the_rest_is_done(desk: Desk) -> None:
    account = desk.account("A-1", [5_00, 6_00, 7_00])
    desk.account("A-2", [8_00])
    bulk_id = desk.begin(BulkAction.CHARGE)
    paid = _oldest(desk)
    held, *_ = (
        payment
        for payment in desk.amounts()
        if payment != paid and desk.world.payment(payment).account_id == account.id
    )
    desk.world.charge(paid)
    with desk.world.engine.begin() as connection:
        hold_payment(
            connection, desk.world.policy, held, None, Cause("operator:bob", desk.world.clock.now(), "disputed")
        )
    desk.apply(bulk_id)
    items = desk.items(bulk_id)
    assert items.pop(paid) == ("refused", "it was paid at 2026-11-01 09:00 UTC")
    assert items.pop(held)[0] == "refused"
    assert set(items.values()) == {("done", None)}
    assert desk.bulk(bulk_id).counts == {"waiting": 0, "done": 2, "refused": 2, "stopped": 0}
    desk.do_enqueued()
    assert desk.world.payment(held).held_until is not None, "a bulk action doesn't release holds"
    assert len(desk.captured_amounts()[paid]) == 1


# -- the worker


def test_bulk_action_works_in_chunks_and_enqueues_itself_when_time_is_up(desk: Desk) -> None:
    many(desk, CHUNK + 10)
    bulk_id = desk.begin(BulkAction.CHARGE)
    use_cases.apply_bulk_action(hasty(desk, 15), bulk_id)
    assert desk.bulk(bulk_id).counts == {"waiting": 10, "done": CHUNK, "refused": 0, "stopped": 0}
    assert desk.world.enqueued.count(ApplyBulkAction(bulk_id)) == 1
    assert ApplyBulkAction(bulk_id) in due(desk), "if that message is lost, the sweep enqueues it"
    desk.do_enqueued()
    assert desk.bulk(bulk_id).state == "finished"


def test_two_workers_on_one_bulk_action_take_turns(desk: Desk) -> None:
    many(desk, 60)
    bulk_id = desk.begin(BulkAction.CHARGE)
    with ThreadPoolExecutor(3) as workers:
        for one in [workers.submit(desk.apply, bulk_id) for _ in range(3)]:
            one.result()
    while desk.bulk(bulk_id).state != "finished":
        desk.apply(bulk_id)
    enqueued = [job for job in desk.world.enqueued if isinstance(job, ChargePayment)]
    assert len(enqueued) == len(set(enqueued)) == 60
    assert len(desk.billing_events("bulk_action_finished")) == 1


@pytest.mark.parametrize("arrival", [1, 2])
@pytest.mark.parametrize(
    "point",
    sorted(point for point in Failpoint if point.startswith("bulk.") and point is not Failpoint.BULK_RINGING),
)
def test_bulk_action_killed_anywhere_applies_each_item_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, point: Failpoint, arrival: int
) -> None:
    monkeypatch.setattr(progress, "CHUNK", 5)
    many(desk, 12)
    bulk_id = desk.begin(BulkAction.CHARGE)
    if point is Failpoint.BULK_FINISH_BEFORE_COMMIT:
        arrival = 1
    with crashing_at(point, arrival) as crash, pytest.raises(Crashed):
        desk.apply(bulk_id)
    crash.bury()
    states = [state for state, _ in desk.items(bulk_id).values()]
    assert desk.bulk(bulk_id).counts["done"] == states.count("done"), "the row stores the progress"
    assert desk.bulk(bulk_id).state == "running"
    assert ApplyBulkAction(bulk_id) in due(desk), "it resumes by itself"
    done_before = {payment for payment, (state, _) in desk.items(bulk_id).items() if state == "done"}
    desk.world.enqueued.clear()  # what the dead process had enqueued is lost, too
    desk.apply(bulk_id)
    assert all(desk.items(bulk_id)[payment] == ("done", None) for payment in done_before)
    for payment in desk.amounts():
        desk.world.charge(payment)
    assert desk.captured_amounts() == {payment: [amount] for payment, amount in desk.amounts().items()}
    made_due = [row.payment_id for row in desk.billing_events("payment_rescheduled")]
    assert len(made_due) == len(set(made_due)) == len(desk.amounts()), "each decided once"
    assert desk.bulk(bulk_id).counts == {"waiting": 0, "done": len(desk.amounts()), "refused": 0, "stopped": 0}
    assert [row.action for row in desk.audit_log()] == [AuditAction.BULK_FINISH]


def test_audit_log_and_billing_events_record_start_and_result(desk: Desk) -> None:
    desk.account("A-1", [5_00, 6_00])
    snapshot = desk.preview(BulkAction.CHARGE)
    bulk_id = desk.begin(BulkAction.CHARGE)
    desk.apply(bulk_id)
    (begun,), (finished,) = desk.billing_events("bulk_action_begun"), desk.billing_events("bulk_action_finished")
    assert (begun.actor, begun.reason, begun.data["bulk_id"]) == (ANNA, "month end", str(bulk_id))
    assert (begun.data["digest"], begun.data["sums"]) == (snapshot.digest, {"USD": 11_00})
    counts = {"waiting": 0, "done": 2, "refused": 0, "stopped": 0}
    assert finished.data["counts"] == counts
    (line,) = desk.audit_log()
    assert (line.action, line.actor, line.outcome, line.subject) == (
        AuditAction.BULK_FINISH,
        ANNA,
        "finished",
        str(bulk_id),
    )
    assert line.result == {"action": "charge", **counts}


# -- stop and resume


def test_bulk_action_can_be_stopped_between_chunks_and_resumed(desk: Desk) -> None:
    many(desk, CHUNK + 10)
    bulk_id = desk.begin(BulkAction.CHARGE)
    use_cases.apply_bulk_action(hasty(desk, 15), bulk_id)
    assert not isinstance(desk.stop(bulk_id), Refused)
    assert desk.bulk(bulk_id).state == "stopped"
    assert desk.bulk(bulk_id).counts == {"waiting": 0, "done": CHUNK, "refused": 0, "stopped": 10}
    desk.world.enqueued.clear()
    desk.apply(bulk_id)
    assert desk.world.enqueued == [], "a stopped bulk action does nothing"
    assert ApplyBulkAction(bulk_id) not in due(desk)
    assert isinstance(desk.stop(bulk_id), Refused)
    assert not isinstance(desk.resume(bulk_id), Refused)
    assert ApplyBulkAction(bulk_id) in due(desk)
    desk.apply(bulk_id)
    assert desk.bulk(bulk_id).counts == {"waiting": 0, "done": CHUNK + 10, "refused": 0, "stopped": 0}
    assert [row.reason for row in desk.billing_events("bulk_action_stopped")] == ["too many"]
    assert [(row.actor, row.reason) for row in desk.billing_events("bulk_action_resumed")] == [
        ("operator:bob", "they are right")
    ]
    assert isinstance(desk.resume(bulk_id), Refused), "it is finished"
    assert isinstance(desk.stop(bulk_id), Refused)


def test_items_in_another_bulk_action_are_refused(desk: Desk) -> None:
    desk.account("A-1", [5_00, 6_00, 7_00])
    first = desk.begin(BulkAction.CHARGE)
    desk.stop(first)
    one = min(desk.amounts())
    second = desk.begin(BulkAction.HOLD, ids=select(payments.c.id).where(payments.c.id == one))
    desk.resume(first)
    assert desk.items(first)[one] == ("refused", "another bulk action took it while this one was stopped")
    assert desk.bulk(first).counts == {"waiting": 2, "done": 0, "refused": 1, "stopped": 0}
    desk.apply(first)
    desk.apply(second)
    assert desk.bulk(first).state == desk.bulk(second).state == "finished"
    desk.do_enqueued()
    assert desk.world.captured_amounts(one) == []


def test_stop_and_resume_require_a_reason(desk: Desk) -> None:
    desk.account("A-1", [5_00])
    bulk_id = desk.begin(BulkAction.CHARGE)
    assert isinstance(desk.stop(bulk_id, " "), Refused)
    desk.stop(bulk_id)
    assert isinstance(desk.resume(bulk_id, ""), Refused)
    assert desk.bulk(bulk_id).state == "stopped"


def test_stop_waits_for_the_running_chunk(desk: Desk) -> None:
    many(desk, 2 * CHUNK)
    bulk_id = desk.begin(BulkAction.CHARGE)
    in_chunk, go_on = threading.Event(), threading.Event()

    def wait_at_failpoint(point: Failpoint) -> None:
        if point is Failpoint.BULK_CHUNK_BEFORE_COMMIT and not in_chunk.is_set():
            in_chunk.set()
            assert go_on.wait(20)

    with ThreadPoolExecutor(2) as both, armed(wait_at_failpoint):
        working = both.submit(desk.apply, bulk_id)
        assert in_chunk.wait(20)
        stopping = both.submit(desk.stop, bulk_id)
        wait_for_waiter(desk.world.engine)
        go_on.set()
        assert not isinstance(stopping.result(), Refused)
        working.result()
    counts = desk.bulk(bulk_id).counts
    assert counts["waiting"] == 0
    assert counts["done"] + counts["stopped"] == 2 * CHUNK
    assert counts["done"] >= CHUNK, "the running chunk was not lost"
