"""The end of each example: all faults are cleared, and each payment must be captured exactly once."""

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from shared.domain.states import ENDED, PaymentState
from shared.messaging.jobs import GenerateInvoices
from shared.reconciliation.verify import Scope, verify
from simulator.issuer.stories import Pays
from tests.model.company import COVERAGES
from tests.model.surroundings import ALL_KINDS

if TYPE_CHECKING:
    from tests.model.machine import Model

#: Each round passes more than the longest back-off and the longest wait for a look-up.
ROUNDS = 8
ROUND = timedelta(minutes=70)
#: What an operator has to look at in an example, and is no sign of a defect.
EXPECTED_FINDINGS = {
    "canceled_by_a_person",
    "orphan_payment_intent",
    "stripe_events_not_listed",
    "charge_refunded",
    "charge_disputed",
}
#: The night lists what was never delivered; here no night passes, so these arrive.
TOLD_AT_THE_END = (
    "setup_intent.succeeded",
    "charge.refunded",
    "charge.dispute.created",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "charge.dispute.closed",
)


def finish_example(model: "Model") -> None:
    """Frozen workers go on and late requests arrive; each customer who owes something registers a card that pays.
    Of the webhooks still under way only registrations, refunds and disputes arrive, so that all else must be found
    without them. Sweep and workers work until all is quiet, and an operator charges what is held. Then every
    payment is captured exactly once, no attempt is open, and `verify` finds nothing at the processor.
    """
    company = model.company
    company.weather.clear()
    while model.standing:
        model.standing_worker_goes_on(0, is_killed=False)
    while company.weather.late:
        model.late_request_arrives(0)
    model.everything_holds()
    model.sweep_enqueues()
    model.work_on(GenerateInvoices)
    unpaid = {row.account_id for row in model.snapshot.payments.values() if row.state not in ENDED}
    for person in model.people:
        if person.account.id not in unpaid:
            continue
        token = company.simulator.make_card(company.account_of(person.account.coverage), Pays()).token
        model.at_processor(person, token)
    for event_type in TOLD_AT_THE_END:
        model.deliver_all(event_type)
    _work_until_quiet(model)
    _operator_asks_for_what_is_held(model)
    model.looker.loose.clear()
    model.everything_holds()
    _assert_all_is_collected(model)
    _assert_refunds_and_disputes_are_told(model)
    _assert_the_audit_is_clean(model)
    _note_what_was_met(model)


def _operator_asks_for_what_is_held(model: "Model") -> None:
    """More than once: the attempt that a release sets free may be the one that meets the next reason to hold it,
    a PaymentIntent that a person had canceled in the processor's own dashboard.
    """
    for _ in range(ROUNDS):
        now = model.company.clock.now()
        held = [row.id for row in model.snapshot.payments.values() if row.held_until and row.held_until > now]
        if not held:
            return
        for payment_id in held:
            model.operator_requests_charge(payment_id)
        _work_until_quiet(model)


def _work_until_quiet(model: "Model") -> None:
    for _ in range(ROUNDS):
        model.sweep_enqueues()
        if not model.company.mailbox and not _is_anything_under_way(model):
            return
        model.work_on(*ALL_KINDS)
        model.pass_machine_time(ROUND)
    model.snapshot = model.look_without_news()
    open_ones = [a for a in model.snapshot.all_attempts() if a.finished_at is None]
    payment_id = open_ones[0].payment_id if open_ones else None
    raise model.snapshot.broken(f"never quiet: {model.company.mailbox}", payment_id)


def _is_anything_under_way(model: "Model") -> bool:
    snapshot = model.snapshot = model.look_without_news()
    return (
        any(attempt.finished_at is None for attempt in snapshot.all_attempts())
        or any(event.state in ("received", "trouble") for event in snapshot.stripe_events)
        or any(run.state in ("ready", "running") for run in snapshot.runs)
        or any(row.backoff_until and row.backoff_until > snapshot.machine_now for row in snapshot.payments.values())
    )


def _assert_all_is_collected(model: "Model") -> None:
    snapshot = model.snapshot
    for payment in snapshot.payments.values():
        times = len(snapshot.lines_of(payment.id))
        is_charged = payment.state == PaymentState.PAID and payment.amount_minor > 0
        if payment.state not in (PaymentState.PAID, PaymentState.CARRIED_FORWARD) or times != is_charged:
            raise snapshot.broken(f"at the end it is {payment.state} and was captured {times} times", payment.id)


def _assert_refunds_and_disputes_are_told(model: "Model") -> None:
    rows = model.company.look.execute(
        "SELECT kind, subject FROM findings WHERE kind IN ('charge_refunded', 'charge_disputed')"
    ).fetchall()
    for kind, happened in (("charge_refunded", model.refunded), ("charge_disputed", model.disputed)):
        untold = happened - {row.subject for row in rows if row.kind == kind}
        if untold:
            raise model.snapshot.broken(f"{kind}: no finding tells of {sorted(untold)}")
        model.met[kind] += len(happened)


def _assert_the_audit_is_clean(model: "Model") -> None:
    company = model.company
    report = verify(
        company.engine,
        Scope(now=company.clock.now(), machine_now=company.machine.now(), forgotten_after=timedelta(0)),
        gateways=company.gateways,
        coverages=COVERAGES,
    )
    for result in report.results:
        for found in result.breaks:
            what = f"verify, {result.check.name}: {found.what}"
            raise model.snapshot.broken(what, _payment_in(model, found.ids.get("payment_id")))
        assert result.not_checked is None, result.not_checked
    found = company.look.execute("SELECT * FROM findings WHERE resolved_at IS NULL ORDER BY kind").fetchall()
    for finding in found:
        if finding.kind not in EXPECTED_FINDINGS:
            raise model.snapshot.broken(f"an open finding: {finding}", _payment_in(model, finding.payment_id))


def _note_what_was_met(model: "Model") -> None:
    snapshot = model.snapshot
    model.met["payments"] += len(snapshot.payments)
    for attempt in snapshot.all_attempts():
        model.met[f"attempts {attempt.kind} {attempt.state}"] += 1
        model.met["looked up"] += attempt.look_ups > 0
    for intents in snapshot.intents.values():
        for intent in intents:
            model.met[f"PaymentIntents {intent.closed_reason}"] += 1
    for row in model.company.look.execute("SELECT kind FROM findings").fetchall():
        model.met[f"findings {row.kind}"] += 1


def _payment_in(model: "Model", payment_id: object) -> UUID | None:
    return next((known for known in model.snapshot.payments if str(known) == str(payment_id)), None)
