"""The record: what an answer, a look-up or a webhook says about an attempt, written once, under the locks.

Evidence of money closes an attempt at any time and always wins. Evidence of no money that isn't the attempt's
own answer never closes one inside its lease: it may speak of the attempt before (I5).
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, exists, select, update

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.query_terms import Moment
from shared.db.rows import AttemptRow, read_one_or_none
from shared.db.session import in_transaction
from shared.db.tables.payments import payment_attempts, payment_intents, payments
from shared.domain.backoff import Backoff
from shared.domain.event_types import EventType
from shared.domain.states import OPEN_ATTEMPT, UNPAID, AttemptKind, AttemptState, Lane, check_attempt_move
from shared.failpoints import Failpoint, reach
from shared.gateway.outcomes import observed_outcome
from shared.gateway.port import Answer, Outcome, PaymentIntentSnapshot
from shared.messaging.jobs import ChargePayment
from shared.payments.eligibility import BACKING_OFF, CLOSE_PENDING, DUE_STATE, HELD, REACHED, none_of
from shared.payments.locked_rows import LockedPaymentIntent, lock_by_attempt, lock_by_intent
from shared.payments.operator.hold import hold_until_released
from shared.payments.outcome_handlers import OUTCOME_HANDLERS, Locked
from shared.payments.state_changes import open_attempt
from shared.payments.unrecorded import alert_if_unrecorded
from shared.runtime import Runtime

#: Machine time until an unknown attempt is looked up again: at first soon, then less often.
LOOK_UP_BACKOFF = Backoff(first=timedelta(seconds=5), longest=timedelta(minutes=15))
#: How long recording an answer waits for a lock or a restarting database (s): an answer that is not recorded costs
#: the rest of the lease and a look-up. With both requests (70 s at most) this stays within the actor's time limit
#: of 90 s; alone it stays within a worker's shutdown grace of 40 s.
WRITE_INSISTS_FOR_S = 20.0
#: Outcomes after which a payment may be due now: a newer card, or a canceled PaymentIntent to replace.
MAY_BE_DUE_AT_ONCE = frozenset({Outcome.DECLINED, Outcome.AUTHENTICATION_NEEDED, Outcome.CANCELED})

# Built once: every record runs them.
# No condition on open attempts: the claim checks them.
_LANE_IF_DUE = select(payments.c.lane).where(
    payments.c.id == bindparam("payment_id"),
    DUE_STATE.sql(),
    REACHED.sql(),
    *none_of((HELD, CLOSE_PENDING, BACKING_OFF)),
)
_UPDATE_INTENT = update(payment_intents).where(payment_intents.c.id == bindparam("row_id"))
_UPDATE_ATTEMPT = update(payment_attempts).where(payment_attempts.c.id == bindparam("row_id"))


def record_answer(runtime: Runtime, attempt_id: UUID, answer: Answer, actor: str = "worker") -> None:
    """Record the processor's answer to this attempt's own request, then enqueue the payment if it is due now.

    Safe to call twice, late, or after settlement: only evidence of money changes a closed attempt.
    """

    def work(connection: Connection) -> UUID:
        rows, attempt = lock_by_attempt(connection, attempt_id)
        _apply(connection, _at_this_moment(runtime, rows, attempt), answer, actor, is_own=True)
        return rows.payment.id

    with alert_if_unrecorded(runtime, attempt_id=attempt_id):
        payment_id = in_transaction(
            runtime.engine, work, insist_for_s=WRITE_INSISTS_FOR_S, outlives_outages=True, step="record.answer"
        )
    if answer.outcome in MAY_BE_DUE_AT_ONCE:
        enqueue_if_due(runtime, payment_id)


def record_observation(runtime: Runtime, payment_intent_id: UUID, answer: Answer, actor: str) -> None:
    """Record what a PaymentIntent of ours looks like now, then enqueue the payment if it is due now.

    `payment_intent_id` is our row's id. Without a readable PaymentIntent in `answer` nothing changes.
    """
    if answer.payment_intent is None:
        return

    with alert_if_unrecorded(runtime, intent_id=payment_intent_id):
        jobs = in_transaction(
            runtime.engine,
            lambda connection: apply_observation(connection, runtime, payment_intent_id, answer, actor),
            insist_for_s=WRITE_INSISTS_FOR_S,
            outlives_outages=True,
            step="record.observation",
        )
    runtime.enqueue(jobs)


def apply_observation(
    connection: Connection, runtime: Runtime, payment_intent_id: UUID, answer: Answer, actor: str
) -> tuple[ChargePayment, ...]:
    """Record in the caller's transaction what a PaymentIntent of ours looks like; return what to enqueue after it.

    The caller holds no lock that comes after an account's (I4).
    """
    snapshot = answer.payment_intent
    if snapshot is None:
        raise AssertionError("an observation shows a PaymentIntent")
    rows = lock_by_intent(connection, payment_intent_id)
    outcome = observed_outcome(snapshot, is_charge_new=_is_charge_new(connection, payment_intent_id, snapshot))
    observed = replace(answer, outcome=outcome, decline=snapshot.last_error, charge_id=snapshot.latest_charge_id)
    attempt = _attempt_observed(connection, rows.payment.id, payment_intent_id, observed)
    _apply(connection, _at_this_moment(runtime, rows, attempt), observed, actor, is_own=False)
    return _jobs_if_due(connection, runtime, rows.payment.id) if outcome in MAY_BE_DUE_AT_ONCE else ()


def end_lost_attempt(connection: Connection, runtime: Runtime, attempt_id: UUID, cause: Cause) -> None:
    """Close an unknown attempt as not sent, and abandon its PaymentIntent, which Stripe says doesn't exist.

    An admin's decision, not evidence: the caller has checked it. The payment is held, so that nothing is charged
    before an operator releases it; evidence of money still wins later.
    """
    rows, attempt = lock_by_attempt(connection, attempt_id)
    locked = _at_this_moment(runtime, rows, attempt)
    answer = Answer(Outcome.NOT_SENT, cause.reason, http_status=404, code="resource_missing")
    _close_attempt(connection, locked, answer, cause.actor)
    values = {"closed_reason": "abandoned", "closed_at": locked.now}
    connection.execute(_UPDATE_INTENT, {"row_id": rows.intent.id, **values})
    if rows.payment.state in UNPAID:
        hold_until_released(connection, rows.payment, cause)


def enqueue_if_due(runtime: Runtime, payment_id: UUID) -> None:
    """Enqueue a payment that is due at this moment; the sweep would find it, only later."""
    with runtime.engine.connect() as connection:
        jobs = _jobs_if_due(connection, runtime, payment_id)
    runtime.enqueue(jobs)


def _jobs_if_due(connection: Connection, runtime: Runtime, payment_id: UUID) -> tuple[ChargePayment, ...]:
    moment = Moment(runtime.clock.now(), runtime.machine_now())
    lane = connection.scalar(_LANE_IF_DUE, {"payment_id": payment_id, **moment.parameters()})
    return () if lane is None else (ChargePayment(payment_id, Lane(lane)),)


def _at_this_moment(runtime: Runtime, rows: LockedPaymentIntent, attempt: AttemptRow | None) -> Locked:
    """Read both clocks, once: after the locks, because waiting for them takes time."""
    return Locked(
        rows.account,
        rows.settings,
        rows.payment,
        rows.intent,
        attempt,
        runtime.policy,
        runtime.clock.now(),
        runtime.machine_now(),
    )


def _attempt_observed(
    connection: Connection, payment_id: UUID, intent_id: UUID, answer: Answer
) -> AttemptRow | None:
    """Find the attempt that an observation is about: the open one or, for money, the last that may have charged."""
    attempt = open_attempt(connection, payment_id)
    if attempt is not None and attempt.payment_intent_id == intent_id:
        return attempt
    if answer.outcome is not Outcome.SUCCEEDED:
        return None
    locked = connection.execute(
        select(payment_attempts)
        .where(payment_attempts.c.payment_intent_id == intent_id)
        .order_by((payment_attempts.c.stripe_charge_id == answer.charge_id).desc().nulls_last())
        .order_by(payment_attempts.c.number.desc())
        .limit(1)
        .with_for_update()
    )
    return read_one_or_none(AttemptRow, locked)


def _is_charge_new(connection: Connection, intent_id: UUID, snapshot: PaymentIntentSnapshot) -> bool:
    """Whether no closed attempt has recorded the PaymentIntent's latest charge yet."""
    if snapshot.latest_charge_id is None:
        return False
    recorded = exists().where(
        payment_attempts.c.payment_intent_id == intent_id,
        payment_attempts.c.stripe_charge_id == snapshot.latest_charge_id,
        payment_attempts.c.state.not_in(OPEN_ATTEMPT),
    )
    return not connection.scalar(select(recorded))


def _apply(connection: Connection, locked: Locked, answer: Answer, actor: str, *, is_own: bool) -> None:
    attempt = locked.attempt
    if attempt is not None and attempt.kind == AttemptKind.CANCEL:
        answer = _of_cancel(answer)
    has_money = answer.outcome is Outcome.SUCCEEDED
    is_open = attempt is not None and attempt.state in OPEN_ATTEMPT
    is_inside_lease = attempt is not None and is_open and locked.machine_now < attempt.lease_expires_at
    if is_inside_lease and not is_own and not has_money:
        return  # may be about the attempt before; the own answer or settlement decides
    if has_money or is_own or is_open or answer.outcome is Outcome.CANCELED:
        _update_intent(connection, locked, answer)
        reach(Failpoint.RECORD_INTENT_WRITTEN)
    closing = _without_charge_of_another(connection, locked, answer)
    is_proven = closing.outcome is Outcome.SUCCEEDED
    if is_open or (is_proven and attempt is not None and attempt.state != AttemptState.SUCCEEDED):
        _close_attempt(connection, locked, closing, actor)
        reach(Failpoint.RECORD_ATTEMPT_WRITTEN)
    if is_open or has_money or _is_fresh_cancellation(connection, locked, answer):
        OUTCOME_HANDLERS[answer.outcome](connection, locked, answer, actor)


def _without_charge_of_another(connection: Connection, locked: Locked, answer: Answer) -> Answer:
    """If another attempt owns this charge, close this one as not_sent: one charge is one attempt's success.

    This happens when a worker is stopped beyond its lease and then confirms while the next attempt is about to.
    """
    attempt, snapshot = locked.attempt, answer.payment_intent
    if answer.outcome is not Outcome.SUCCEEDED or attempt is None or snapshot is None:
        return answer
    of_another = exists().where(
        payment_attempts.c.payment_intent_id == attempt.payment_intent_id,
        payment_attempts.c.id != attempt.id,
        payment_attempts.c.state == AttemptState.SUCCEEDED,
        payment_attempts.c.stripe_charge_id == snapshot.latest_charge_id,
    )
    if not connection.scalar(select(of_another)):
        return answer
    reason = f"another attempt owns this charge: {answer.reason}"
    return replace(answer, outcome=Outcome.NOT_SENT, charge_id=None, reason=reason)


def _is_fresh_cancellation(connection: Connection, locked: Locked, answer: Answer) -> bool:
    """Whether this is the first report of a live PaymentIntent's cancellation, without an attempt of its own.

    A late event about a closed PaymentIntent says nothing new: the next one may have been charged already.
    """
    is_news = answer.outcome is Outcome.CANCELED and locked.intent.closed_reason is None and locked.attempt is None
    return is_news and open_attempt(connection, locked.payment.id) is None


def _of_cancel(answer: Answer) -> Answer:
    """Map a cancel attempt's answer: canceled, succeeded and unknown stay; anything else is not_sent."""
    if answer.outcome in (Outcome.CANCELED, Outcome.SUCCEEDED, Outcome.UNKNOWN):
        return answer
    return replace(answer, outcome=Outcome.NOT_SENT, decline=None, reason=f"not canceled: {answer.reason}")


def _update_intent(connection: Connection, locked: Locked, answer: Answer) -> None:
    snapshot, intent = answer.payment_intent, locked.intent
    if snapshot is None:
        _abandon_if_key_spent(connection, locked, answer)
        return
    if intent.closed_reason == "succeeded":
        return
    values: dict[str, Any] = {
        "status": snapshot.status,
        "latest_charge_id": snapshot.latest_charge_id,
        "cancellation_reason": snapshot.cancellation_reason,
    }
    if snapshot.status in ("succeeded", "canceled"):
        values |= {"closed_reason": snapshot.status, "closed_at": locked.now}
    connection.execute(_UPDATE_INTENT, {"row_id": intent.id, **values})


def _abandon_if_key_spent(connection: Connection, locked: Locked, answer: Answer) -> None:
    """Abandon a PaymentIntent whose create key is spent: every repetition returns the saved error.

    Its id was never known, so it was never confirmed and moves no money. Waiting until the key is pruned (a day)
    would leave the payment uncharged.
    """
    attempt, intent = locked.attempt, locked.intent
    is_creating = attempt is not None and attempt.state in OPEN_ATTEMPT and attempt.confirm_allowed_at is None
    if answer.is_key_spent and is_creating and intent.stripe_payment_intent_id is None and not intent.closed_reason:
        values = {"row_id": intent.id, "closed_reason": "abandoned", "closed_at": locked.now}
        connection.execute(_UPDATE_INTENT, values)


def _close_attempt(connection: Connection, locked: Locked, answer: Answer, actor: str) -> None:
    """Store the outcome and every code that came with it, verbatim; unknown keeps the attempt open."""
    attempt = locked.attempt
    if attempt is None:
        raise AssertionError("only called with an attempt")
    before, after = AttemptState(attempt.state), AttemptState(answer.outcome)
    if before is after:  # still unknown: settlement has scheduled the next look-up
        return
    check_attempt_move(before, after)
    decline = answer.decline
    codes = {
        "stripe_charge_id": answer.charge_id,
        "http_status": answer.http_status,
        "error_type": answer.error_type,
        "code": answer.code or (decline.code if decline else None),
        "decline_code": decline.decline_code if decline else None,
        "advice_code": decline.advice_code if decline else None,
        "network_advice_code": decline.network_advice_code if decline else None,
        "network_decline_code": decline.network_decline_code if decline else None,
        "stripe_request_id": answer.request_id,
    }
    is_unknown = after is AttemptState.UNKNOWN
    connection.execute(
        _UPDATE_ATTEMPT,
        {
            "row_id": attempt.id,
            "state": after,
            "outcome_reason": answer.reason,
            "finished_at": None if is_unknown else locked.now,
            "look_up_at": locked.machine_now + LOOK_UP_BACKOFF.first if is_unknown else None,
            **codes,
        },
    )
    record_event(
        connection,
        BillingEvent(
            type=EventType.ATTEMPT_SETTLED if before is AttemptState.UNKNOWN else EventType.ATTEMPT_ANSWERED,
            at=locked.now,
            actor=actor,
            reason=answer.reason,
            account_id=locked.account.id,
            payment_id=locked.payment.id,
            attempt_id=attempt.id,
            before={"state": before},
            after={"state": after},
            data={name: value for name, value in codes.items() if value is not None},
        ),
    )
