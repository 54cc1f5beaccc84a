"""What holds after every step, whatever happened in it. Each docstring is a promise; docs/proof.md quotes it."""

from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from shared.domain.event_types import STATE_EVENTS
from shared.domain.states import (
    AUTOMATIC,
    CHARGEABLE,
    ENDED,
    WAITING_FOR_CARD,
    AttemptState,
    ForbiddenMoveError,
    PaymentState,
    RunState,
    Standing,
    StripeEventState,
    check_attempt_move,
    check_payment_move,
)
from shared.messaging.jobs import ApplyStripeEvent, ChargePayment, Job, SettleAttempt, job_of_run
from tests.model.snapshot import ChargeSnapshot, payment_of

ATTEMPT_EVENTS = ("attempt_answered", "attempt_settled", "attempt_became_unknown")
#: No back-off of an outage and no wait for the next look is longer (machine time).
LONGEST_WAIT = timedelta(hours=1)


def charged_at_most_once(snapshot: ChargeSnapshot) -> None:
    """The processor's ledger has at most one captured charge per payment."""
    for payment_id, times in Counter(payment_of(line) for line in snapshot.ledger).items():
        if times > 1:
            raise snapshot.broken(f"charged {times} times", payment_id)


def charged_what_is_owed(snapshot: ChargeSnapshot) -> None:
    """Every captured charge is of its payment's amount, currency, coverage and customer, to the minor unit."""
    for line in snapshot.ledger:
        payment = snapshot.payments[payment_of(line)]
        owed = (payment.amount_minor, payment.currency.lower(), payment.stripe_customer_id)
        if (line.amount, line.currency, line.customer) != owed:
            raise snapshot.broken(f"captured {line.amount} {line.currency}, owed {owed}", payment.id)
        if line.account != snapshot.company.account_of(payment.coverage):
            raise snapshot.broken("captured in another coverage's account", payment.id)


def tried_once_a_day(snapshot: ChargeSnapshot) -> None:
    """After a decline, the calendar charges no other month of the account with that card on the same business day.

    After insufficient funds a smaller amount is charged.
    """
    charges = sorted((a for a in snapshot.all_attempts() if a.kind == "charge"), key=lambda a: a.created_at)
    for position, later in enumerate(charges):
        of_later = snapshot.payments[later.payment_id]
        for declined in charges[:position]:
            of_declined = snapshot.payments[declined.payment_id]
            if (
                later.trigger in AUTOMATIC
                and declined.state == AttemptState.DECLINED
                and declined.look_ups == 0  # its outcome was known at once
                and declined.payment_id != later.payment_id
                and of_declined.settings_id == of_later.settings_id
                and declined.card_revision == later.card_revision
                and _business_day(snapshot, declined) == _business_day(snapshot, later)
                and (
                    declined.decline_code != "insufficient_funds"
                    or of_later.amount_minor >= of_declined.amount_minor
                )
            ):
                raise snapshot.broken(f"the card was declined on this day for {declined.payment_id}", of_later.id)


def _is_smaller(later: Any, earlier: Any, declined: Any) -> bool:
    return bool(declined.decline_code == "insufficient_funds" and later.amount_minor < earlier.amount_minor)


def _business_day(snapshot: ChargeSnapshot, attempt: Any) -> date:
    day: date = attempt.started_at.astimezone(snapshot.company.policy.coverage(attempt.coverage).zone).date()
    return day


def receipts_are_captured_money(snapshot: ChargeSnapshot) -> None:
    """Every receipt is one captured charge in the ledger, of the same payment, amount and currency; none twice."""
    money = {line.charge: line for line in snapshot.ledger}
    for receipt in snapshot.receipts:
        line = money.pop(receipt.stripe_charge_id, None)
        if line is None:
            raise snapshot.broken(
                f"charge {receipt.stripe_charge_id} isn't there, or is booked twice", receipt.payment_id
            )
        booked = (receipt.payment_id, receipt.amount_minor, receipt.currency.lower())
        if booked != (payment_of(line), line.amount, line.currency):
            raise snapshot.broken(f"booked {booked}, captured {line}", receipt.payment_id)


def captured_money_is_booked(snapshot: ChargeSnapshot) -> None:
    """What the ledger captured for a payment is what we hold as paid, once nothing is open.

    Open is an attempt, or money that moved while no attempt was (a worker frozen past its lease, a request long
    under way, a customer in their browser): then a look at the PaymentIntent is still to come, and the end asks.
    """
    booked = {receipt.payment_id for receipt in snapshot.receipts}
    for payment_id in {payment_of(line) for line in snapshot.ledger} - booked:
        is_open = (
            snapshot.open_attempts(payment_id) or payment_id in snapshot.in_hand or payment_id in snapshot.loose
        )
        if not is_open:
            raise snapshot.broken("money was captured, nothing is open, and our records don't have it", payment_id)
    snapshot.loose -= booked
    for payment in snapshot.payments.values():
        is_paid = payment.state == PaymentState.PAID and payment.amount_minor > 0
        if is_paid != (payment.id in booked):
            raise snapshot.broken(f"is {payment.state}, and its receipts say otherwise", payment.id)


def one_open_attempt(snapshot: ChargeSnapshot) -> None:
    """At most one attempt of a payment is open, and attempts are numbered without a gap."""
    for payment_id, attempts in snapshot.attempts.items():
        if len(snapshot.open_attempts(payment_id)) > 1:
            raise snapshot.broken("two open attempts", payment_id)
        if [attempt.number for attempt in attempts] != list(range(1, len(attempts) + 1)):
            raise snapshot.broken("attempts have a gap", payment_id)


def one_live_payment_intent(snapshot: ChargeSnapshot) -> None:
    """At most one PaymentIntent of a payment is live; a successor comes only after the processor shows the
    predecessor canceled, or if the predecessor's id never became known, so that nobody can have confirmed it.
    """
    for payment_id, intents in snapshot.intents.items():
        if sum(intent.closed_reason is None for intent in intents) > 1:
            raise snapshot.broken("two live PaymentIntents", payment_id)
        for intent in intents:
            if intent.closed_reason == "abandoned" and intent.stripe_payment_intent_id is not None:
                raise snapshot.broken(
                    f"ordinal {intent.ordinal} was abandoned although its id is known", payment_id
                )
            has_successor = intent is not intents[-1]
            if has_successor and intent.closed_reason not in ("canceled", "abandoned"):
                raise snapshot.broken(f"ordinal {intent.ordinal} has a successor and isn't canceled", payment_id)
            if intent.closed_reason == "canceled":
                _is_canceled_there(snapshot, payment_id, intent)


def _is_canceled_there(snapshot: ChargeSnapshot, payment_id: UUID, intent: Any) -> None:
    stripe_id = intent.stripe_payment_intent_id
    known: set[str] = snapshot.company.canceled
    if stripe_id in known:
        return
    status = snapshot.company.status_of(intent.coverage, stripe_id)
    if status != "canceled":
        raise snapshot.broken(f"{stripe_id} is {status}, and we hold it for canceled", payment_id)
    known.add(stripe_id)


def declined_only_by_the_issuer(snapshot: ChargeSnapshot) -> None:
    """An attempt is called declined only with a charge of its own that the issuer turned down."""
    for payment_id, attempts in snapshot.attempts.items():
        charges = [attempt.stripe_charge_id for attempt in attempts if attempt.state == AttemptState.DECLINED]
        if None in charges or len(set(charges)) < len(charges):
            raise snapshot.broken(f"declined attempts with the charges {charges}", payment_id)
        if snapshot.payments[payment_id].decline_count < len(charges):
            raise snapshot.broken("a decline wasn't counted", payment_id)


def leases_are_respected(snapshot: ChargeSnapshot) -> None:
    """Nobody but its own worker closes an attempt inside its lease, or calls it unknown, except with money."""
    leases = {attempt.id: attempt.lease_expires_at for attempt in snapshot.all_attempts()}
    for event in snapshot.news:
        is_others = event.type in ATTEMPT_EVENTS and event.actor != "worker"
        has_money = event.after.get("state") == AttemptState.SUCCEEDED
        if is_others and not has_money and event.created_at + timedelta(seconds=1) < leases[event.attempt_id]:
            raise snapshot.broken(f"{event.actor} closed an attempt inside its lease", event.payment_id)


def states_move_by_the_table(snapshot: ChargeSnapshot) -> None:
    """Every state was reached from the one before it by a move that shared/domain/states.py lists; and the
    billing events, played from their start, give the present state of every payment, attempt and account standing.
    """
    for event in snapshot.news:
        try:
            _play(snapshot, event)
        except (ForbiddenMoveError, AssertionError) as error:
            raise snapshot.broken(f"event {event.id} {event.type}: {error}", event.payment_id) from error
    for payment in snapshot.payments.values():
        if snapshot.replay.payments.get(payment.id) != payment.state:
            told = snapshot.replay.payments.get(payment.id)
            raise snapshot.broken(f"is {payment.state}, its billing events say {told}", payment.id)
    for attempt in snapshot.all_attempts():
        if snapshot.replay.attempts.get(attempt.id) != attempt.state:
            told = snapshot.replay.attempts.get(attempt.id)
            what = f"attempt {attempt.number} is {attempt.state}, its billing events say {told}"
            raise snapshot.broken(what, attempt.payment_id)
    for account in snapshot.accounts:
        told = snapshot.replay.standings.get(account.id, Standing.GOOD)
        if told != account.standing:
            raise snapshot.broken(f"{account.external_id} is {account.standing}, its billing events say {told}")


def _play(snapshot: ChargeSnapshot, event: Any) -> None:
    replay = snapshot.replay
    if event.type in STATE_EVENTS:
        before, after = replay.payments.get(event.payment_id), PaymentState(event.after["state"])
        assert event.before.get("state") == before, (
            f"the events were at {before}, not at {event.before.get('state')}"
        )
        if before is not None:
            check_payment_move(PaymentState(before), after)
        replay.payments[event.payment_id] = after
    elif event.type == "attempt_started":
        assert event.attempt_id not in replay.attempts, "an attempt began twice"
        replay.attempts[event.attempt_id] = AttemptState.STARTED
    elif event.type in ATTEMPT_EVENTS:
        before, after = replay.attempts[event.attempt_id], AttemptState(event.after["state"])
        assert event.before["state"] == before, f"the events were at {before}, not at {event.before['state']}"
        check_attempt_move(AttemptState(before), after)
        replay.attempts[event.attempt_id] = after
    elif event.type == "standing_changed":
        before = replay.standings.get(event.account_id, Standing.GOOD)
        assert event.before["standing"] == before, f"the events were at {before}, not at {event.before['standing']}"
        replay.standings[event.account_id] = Standing(event.after["standing"])
    elif event.type == "card_registered":
        replay.registered[event.account_id, event.data["coverage"]] = event.after["card_revision"]


def nothing_due_is_invisible(snapshot: ChargeSnapshot) -> None:
    """Every payment that isn't ended is due in a source of the sweep, scheduled, held, backing off for a bounded
    time, waits for a card or a customer that it names, or has an open attempt that will be looked up; every
    unfinished run and every Stripe event that isn't applied is in a source too, or has its time.
    """
    wanted: dict[Job, tuple[str, UUID | None]] = {}
    for payment in snapshot.payments.values():
        if payment.state not in ENDED and not _is_accounted_for(snapshot, payment):
            payment_wanted = ChargePayment(payment.id, payment.lane)
            wanted[payment_wanted] = (f"is {payment.state}, and no source finds it", payment.id)
    for attempt in snapshot.all_attempts():
        is_expired = attempt.state == AttemptState.STARTED and attempt.lease_expires_at <= snapshot.machine_now
        is_unknown = attempt.state == AttemptState.UNKNOWN
        if is_unknown and (attempt.look_up_at is None or attempt.look_up_at > snapshot.machine_now + LONGEST_WAIT):
            raise snapshot.broken("an unknown attempt isn't looked up again", attempt.payment_id)
        if is_expired or (is_unknown and attempt.look_up_at <= snapshot.machine_now):
            wanted[SettleAttempt(attempt.id)] = ("an open attempt that no source finds", attempt.payment_id)
    for run in snapshot.runs:
        is_resting = run.backoff_until is not None and run.backoff_until > snapshot.machine_now
        if run.state in (RunState.READY, RunState.RUNNING) and not is_resting:
            wanted[job_of_run(run.job, run.id)] = (f"run {run.job} {run.period} is in no source", None)
    for event in snapshot.stripe_events:
        is_open = event.state in (StripeEventState.RECEIVED, StripeEventState.TROUBLE)
        if is_open and (event.try_again_at is None or event.try_again_at <= snapshot.machine_now):
            job = ApplyStripeEvent(event.coverage, event.stripe_event_id)
            wanted[job] = (f"event {event.type} is in no source", None)
        if is_open and event.try_again_at is not None and event.try_again_at > snapshot.machine_now + LONGEST_WAIT:
            raise snapshot.broken(f"event {event.type} waits until {event.try_again_at}: {event.trouble}")
    if not wanted:
        return
    found = {_bare(job) for job in snapshot.due}
    for job, (what, payment_id) in wanted.items():
        if _bare(job) not in found and not (
            isinstance(job, ChargePayment)
            and (_is_about_to_be_stamped(snapshot, job) or _comes_after_another(snapshot, job, found))
        ):
            raise snapshot.broken(what, payment_id)


def _is_accounted_for(snapshot: ChargeSnapshot, payment: Any) -> bool:
    """Whether a payment names what it waits for; a wait that nobody ends is a break."""
    if snapshot.open_attempts(payment.id):
        return True
    if payment.held_until is not None and payment.held_until > snapshot.now:
        return bool(payment.state_reason)
    if payment.backoff_until is not None and payment.backoff_until > snapshot.machine_now:
        return payment.backoff_until <= snapshot.machine_now + LONGEST_WAIT
    if payment.state in WAITING_FOR_CARD:
        is_newer = payment.card_revision > payment.waiting_for_revision_after
        return bool(payment.state_reason) and not (is_newer and payment.primary_card_id is not None)
    if payment.state in CHARGEABLE:
        return payment.next_attempt_at > snapshot.now
    return payment.state == PaymentState.AWAITING_TRANSFER


def _is_about_to_be_stamped(snapshot: ChargeSnapshot, job: ChargePayment) -> bool:
    """Whether a daily run that the sweep finds will stamp the payment before it is charged."""
    payment = snapshot.payments[job.payment_id]
    unfinished = {run.coverage for run in snapshot.runs if run.state in (RunState.READY, RunState.RUNNING)}
    return payment.state == PaymentState.RETRY_SCHEDULED and payment.coverage in unfinished


def _comes_after_another(snapshot: ChargeSnapshot, job: ChargePayment, found: set[tuple[str, ...]]) -> bool:
    """Whether it waits for another month of its account, which a source finds or which is being charged."""
    payment = snapshot.payments[job.payment_id]
    if payment.trigger not in AUTOMATIC:
        return False
    for other in snapshot.payments.values():
        if other.settings_id == payment.settings_id and other.id != payment.id and other.state not in ENDED:
            charge = ChargePayment(other.id, other.lane)
            is_older = other.period < payment.period
            if snapshot.open_attempts(other.id) or (
                is_older and (_bare(charge) in found or _is_about_to_be_stamped(snapshot, charge))
            ):
                return True
    return False


def _bare(job: Job) -> tuple[str, ...]:
    """A job without its lane: which workers take it is no matter here."""
    return (job.name, *job.arguments)


def newest_card_is_charged(snapshot: ChargeSnapshot) -> None:
    """No payment waits, for a card or for another day, because of a card that the customer has replaced since."""
    for payment in snapshot.payments.values():
        answered = [a for a in snapshot.attempts[payment.id] if a.kind == "charge" and a.state in _ANSWERED]
        is_busy = snapshot.open_attempts(payment.id) or payment.id in snapshot.in_hand
        is_held = payment.held_until is not None and payment.held_until > snapshot.now
        has_card = payment.primary_card_id is not None and payment.card_detached_at is None
        if not answered or is_busy or is_held or not has_card or payment.is_card_blocked:
            continue
        if payment.state in WAITING_FOR_CARD:
            is_overlooked = answered[-1].card_revision < payment.card_revision <= payment.waiting_for_revision_after
        elif payment.state == PaymentState.RETRY_SCHEDULED and "the network allows" not in payment.state_reason:
            registered = snapshot.replay.registered.get((payment.account_id, payment.coverage), 0)
            is_overlooked = answered[-1].card_revision < registered
        else:
            is_overlooked = False
        if is_overlooked:
            charged = f"revision {answered[-1].card_revision} of the card was charged last"
            raise snapshot.broken(f"{charged}, and {payment.card_revision} is there", payment.id)


_ANSWERED = (AttemptState.DECLINED, AttemptState.AUTHENTICATION_NEEDED)

#: In this order; the first that breaks is the one that is told.
INVARIANTS: tuple[Callable[[ChargeSnapshot], None], ...] = (
    charged_at_most_once,
    tried_once_a_day,
    charged_what_is_owed,
    receipts_are_captured_money,
    captured_money_is_booked,
    one_open_attempt,
    one_live_payment_intent,
    declined_only_by_the_issuer,
    leases_are_respected,
    states_move_by_the_table,
    nothing_due_is_invisible,
    newest_card_is_charged,
)
