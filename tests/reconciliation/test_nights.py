"""Reconciliation runs: created by the tick, caught up, resumed after a kill, retried during an outage."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from scheduler.tick import tick
from shared.db.query_terms import Moment
from shared.domain.schedule import RunKey
from shared.gateway.port import Answer, ChargeReadBack, GatewayUnavailableError, Outcome, Page
from shared.messaging.jobs import RECONCILIATION, ReconcileCharges
from shared.reconciliation import charges as charges_phase
from shared.reconciliation import repair, runner
from shared.reconciliation.nightly_run import REST
from shared.scheduling.due_work import UNFINISHED_RECONCILIATIONS
from shared.scheduling.runs import find_run
from tests.reconciliation.records import NIGHT, PAID_BY_HAND, UNBOOK, Night
from tests.world import make_gateways
from workers.use_cases.reconcile_charges import reconcile_charges


class KilledError(BaseException):
    """Stands for kill -9 at this point: nothing after it happens."""


def killed(night: Night, run_id: UUID) -> None:
    """Let a worker resume a run and die at the patched function."""
    with pytest.raises(KilledError):
        reconcile_charges(night.world.runtime, run_id)


def die(*_arguments: object, **_options: object) -> Any:
    raise KilledError


def test_tick_creates_each_run_and_the_next_one_catches_up(night: Night) -> None:
    world = night.world
    tick(world.engine, world.policy, world.clock.now())  # the schedule is in force from here
    world.clock.set(NIGHT)
    jobs = [job for job in tick(world.engine, world.policy, NIGHT) if isinstance(job, ReconcileCharges)]
    with world.engine.connect() as connection:
        first = find_run(connection, RunKey(RECONCILIATION, "2026-11-02", "global"))
    assert ReconcileCharges(first.id) in jobs
    night.resume(first.id)
    night.charged_payment()
    unbooked = night.charged_payment()
    night.plant(*UNBOOK, payment=unbooked)
    world.clock.set(NIGHT + timedelta(days=9, hours=5))  # the scheduler was down
    tick(world.engine, world.policy, world.clock.now())
    with world.engine.connect() as connection:
        second = find_run(connection, RunKey(RECONCILIATION, "2026-11-11", "global"))
        made = connection.scalar(
            text("SELECT count(*) FROM runs WHERE job = 'reconciliation' AND coverage = 'global'")
        )
    assert made == 2
    counts = night.resume(second.id)
    assert night.run(second.id).cursor["begins_at"] == NIGHT.isoformat()
    assert counts["mended"] == 1, "charges of the first of the nine days are compared, too"


def plant_one_of_each(night: Night) -> dict[str, Any]:
    """Plant one difference of each kind; return the payments planted with money or an orphan."""
    unbooked, differs, second = (night.charged_payment() for _ in range(3))
    night.plant(*UNBOOK, payment=unbooked)
    night.plant("UPDATE payments SET amount_minor = 499 WHERE id = :payment", payment=differs)
    night.create_unknown_charge(second, ordinal=2)
    night.create_unknown_charge(None)
    night.plant(PAID_BY_HAND, payment=night.world.add_due_payment(night.account, 8_00))
    waiting = night.world.add_due_payment(night.account, 9_00)
    orphan = night.create_unknown_intent(waiting)
    return {"unbooked": unbooked, "waiting": waiting, "orphan": orphan.stripe_id}


EACH = {
    "amount_differs": 1,
    "charge_without_payment": 1,
    "paid_more_than_once": 1,
    "paid_without_charge": 1,
}

#: Where the process is killed: a name of a module, which dies when it is called for the first time.
KILLED_AT: tuple[tuple[Any, str], ...] = (
    (charges_phase, "commit_findings"),
    (charges_phase, "record_if_paid"),
    (runner, "_write"),
    (runner, "resolve_finding"),
    (runner, "mark_canceled"),
    (runner, "delete_listed_charges"),
)


@pytest.mark.parametrize(("module", "name"), KILLED_AT, ids=[name for _, name in KILLED_AT])
def test_reconciliation_killed_anywhere_resumes_and_counts_once(
    night: Night, module: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = plant_one_of_each(night)
    run_id = night.add_run()
    with monkeypatch.context() as patched:
        patched.setattr(module, name, die)
        killed(night, run_id)
    assert night.run(run_id).state == "running"
    _assert_each_once(night, night.resume(run_id), planted)


def test_fixes_made_before_a_kill_are_still_counted(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = plant_one_of_each(night)
    run_id = night.add_run()
    with monkeypatch.context() as patched:
        patched.setattr(repair, "record_observation", _then_die(repair.record_observation))
        killed(night, run_id)  # once the second charge is booked,
        killed(night, run_id)  # and once the money is recorded that was missing
    assert night.world.payment(planted["unbooked"]).state == "paid"
    gateway = night.world.runtime.gateways["global"]
    with monkeypatch.context() as patched:
        patched.setattr(gateway, "cancel_payment_intent", _then_die(gateway.cancel_payment_intent))
        killed(night, run_id)
    assert night.processor_status(planted["orphan"]) == "canceled"
    _assert_each_once(night, night.resume(run_id), planted)


def _assert_each_once(night: Night, counts: dict[str, Any], planted: dict[str, Any]) -> None:
    assert counts["found"] == EACH
    assert counts["mended"] == 1
    assert counts["orphans_canceled"] == 1
    assert night.world.payment(planted["unbooked"]).state == "paid"
    assert len(night.receipts(planted["unbooked"])) == 1
    assert night.processor_status(planted["orphan"]) == "canceled"
    with night.world.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM listed_charges")) == 0
        doubled = connection.scalar(
            text("SELECT count(*) FROM (SELECT kind, subject FROM findings GROUP BY 1, 2 HAVING count(*) > 1) d")
        )
    assert doubled == 0


def _then_die(do: Callable[..., Any]) -> Callable[..., Any]:
    def do_and_die(*arguments: Any, **options: Any) -> Any:
        do(*arguments, **options)
        raise KilledError

    return do_and_die


def test_second_reconciliation_adds_no_findings(night: Night) -> None:
    plant_one_of_each(night)
    first = night.reconcile()
    rows = night.findings()
    second = night.reconcile(night.next_night())
    assert night.findings() == rows
    assert second["found"]["amount_differs"] == first["found"]["amount_differs"] == 1
    assert second.get("mended", 0) == second.get("orphans_canceled", 0) == 0


@pytest.mark.parametrize("method", ["charge_page", "retrieve_charge", "payment_intent_page"])
def test_run_without_answers_stays_unfinished_with_its_error(
    night: Night, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = plant_one_of_each(night)
    run_id = night.add_run()

    def away(*_arguments: object) -> Page[ChargeReadBack]:
        raise GatewayUnavailableError("APIConnectionError: no message")

    with monkeypatch.context() as patched:
        patched.setattr(night.world.runtime.gateways["global"], method, away)
        reconcile_charges(night.world.runtime, run_id)
        run = night.run(run_id)
        assert run.state == "running"
        assert "APIConnectionError" in run.trouble
        assert not _is_due(night), "it rests"
        reconcile_charges(night.world.runtime, run_id)
        night.world.machine.advance(seconds=REST.total_seconds() + 1)
        assert _is_due(night)
        reconcile_charges(night.world.runtime, run_id)  # still with an error
    with night.world.engine.connect() as connection:
        told = connection.scalar(text("SELECT count(*) FROM billing_events WHERE type = 'run_in_trouble'"))
    assert told == 1, "not at each retry"
    night.world.machine.advance(seconds=REST.total_seconds() + 1)
    _assert_each_once(night, night.resume(run_id), planted)
    assert night.run(run_id).trouble is None


def test_orphan_with_an_unanswered_cancellation_is_canceled_later(night: Night) -> None:
    orphan = night.create_unknown_intent(night.world.add_due_payment(night.account))
    gateway = night.world.runtime.gateways["global"]
    cancel = gateway.cancel_payment_intent
    gateway.cancel_payment_intent = lambda *_: Answer(Outcome.UNKNOWN, "no_answer: timeout")
    run_id = night.add_run()
    reconcile_charges(night.world.runtime, run_id)
    assert night.run(run_id).trouble is not None
    assert night.kinds() == ["orphan_payment_intent"]
    gateway.cancel_payment_intent = cancel
    night.world.machine.advance(seconds=REST.total_seconds() + 1)
    assert night.resume(run_id)["orphans_canceled"] == 1
    assert night.findings() == []
    assert night.processor_status(orphan.stripe_id) == "canceled"


def test_run_without_an_api_key_reports_it_and_waits(night: Night) -> None:
    run_id = night.add_run()
    gateways = dict(night.world.runtime.gateways)
    night.world.runtime.gateways.clear()
    reconcile_charges(night.world.runtime, run_id)
    assert "STRIPE_API_KEYS has no key for global" in night.run(run_id).trouble
    night.world.runtime.gateways.update(gateways)
    night.world.machine.advance(seconds=REST.total_seconds() + 1)
    night.resume(run_id)


def test_lagging_list_and_clock_skew_make_no_findings(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list omits recent objects; each is read by itself and is there."""
    paid = night.charged_payment()
    unbooked = night.charged_payment()
    night.plant(*UNBOOK, payment=unbooked)
    monkeypatch.setattr(night.world.runtime.gateways["global"], "charge_page", lambda *_: Page((), None))
    counts = night.reconcile()
    assert counts["found"] == {}
    assert counts["receipts_looked_up"] == 1
    assert night.findings() == []
    assert night.world.payment(paid).state == "paid"
    assert counts["mended"] == 1, "our open PaymentIntents are read, too"
    assert night.world.payment(unbooked).state == "paid"


def test_finding_is_verified_against_the_charge_itself(night: Night) -> None:
    """The list shows another amount than the charge itself, as a stale copy may."""
    night.charged_payment()
    gateway = night.world.runtime.gateways["global"]
    page = gateway.charge_page

    def stale(*arguments: Any) -> Page[ChargeReadBack]:
        listed = page(*arguments)
        return Page(tuple(replace(one, amount_captured_minor=1) for one in listed.items), listed.after)

    gateway.charge_page = stale
    assert night.reconcile()["found"] == {}


def test_charge_of_an_open_attempt_is_skipped(night: Night) -> None:
    payment = night.world.add_due_payment(night.account)
    gateway = night.world.runtime.gateways["global"]
    confirm = gateway.confirm_payment_intent

    def confirm_in_vain(*arguments: Any) -> Answer:
        confirm(*arguments)
        return Answer(Outcome.UNKNOWN, "no_answer: timeout")

    gateway.confirm_payment_intent = confirm_in_vain
    night.world.charge(payment)
    before = (night.world.payment(payment), night.world.attempts(payment), night.world.intents(payment))
    counts = night.reconcile()
    assert counts["on_their_way"] == 1
    assert counts["found"] == {}
    assert (night.world.payment(payment), night.world.attempts(payment), night.world.intents(payment)) == before
    (attempt,) = night.world.attempts(payment)
    night.world.machine.advance(minutes=10)
    night.world.settle(attempt.id)
    assert night.world.payment(payment).state == "paid"


def test_every_phase_skips_an_attempt_inside_its_lease(night: Night) -> None:
    """A lost PaymentIntent has captured money while another attempt of the payment is open."""
    payment = night.world.add_due_payment(night.account)
    gateway = night.world.runtime.gateways["global"]
    confirm = gateway.confirm_payment_intent
    gateway.confirm_payment_intent = lambda *_: Answer(Outcome.UNKNOWN, "no_answer")
    night.world.charge(payment)
    gateway.confirm_payment_intent = confirm
    night.plant("UPDATE payment_attempts SET state = 'started', look_up_at = NULL")
    night.create_unknown_charge(payment, ordinal=2)
    orphan = night.create_unknown_intent(payment, ordinal=3)
    counts = night.reconcile()
    assert counts["on_their_way"] == 1
    assert counts["payment_intents_left_to_their_claim"] == 1
    assert night.processor_status(orphan.stripe_id) == "requires_payment_method"
    assert night.world.payment(payment).state == "due"
    assert [attempt.state for attempt in night.world.attempts(payment)] == ["started"]
    assert night.findings() == night.findings(resolved=True) == []


def test_second_worker_on_the_same_run_writes_nothing(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_one_of_each(night)
    run_id = night.add_run()
    gateway = night.world.runtime.gateways["global"]
    page = gateway.charge_page
    counts: list[dict[str, Any]] = []

    def page_while_another_finishes(*arguments: Any) -> Page[ChargeReadBack]:
        monkeypatch.setattr(gateway, "charge_page", page)
        counts.append(night.resume(run_id))
        return page(*arguments)

    monkeypatch.setattr(gateway, "charge_page", page_while_another_finishes)
    reconcile_charges(night.world.runtime, run_id)
    assert dict(night.run(run_id).counts) == counts[0]
    assert len({(finding.kind, finding.subject) for finding in night.findings()}) == len(night.findings())


def _is_due(night: Night) -> bool:
    moment = Moment(night.world.clock.now(), night.world.machine())
    with night.world.engine.connect() as connection:
        return connection.execute(UNFINISHED_RECONCILIATIONS, moment.parameters()).first() is not None


def test_run_waits_while_the_api_key_is_another_accounts(night: Night) -> None:
    world = night.world
    why = iter(["the key belongs to acct_other", None])
    asking = make_gateways(world.simulator.url, world.policy.coverages, why_not=lambda _: next(why))
    world.runtime = replace(world.runtime, gateways=asking)
    run = night.add_run()
    reconcile_charges(world.runtime, run)
    assert "the key belongs to acct_other" in night.run(run).trouble
    world.machine.advance(minutes=2)
    night.resume(run)
    assert night.run(run).state == "finished"
