"""What must hold once everything has settled: each break is one line with its round and payment."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select, text

from shared.db.tables.payments import payment_attempts, payments
from shared.db.tables.system import billing_events, stripe_events
from shared.domain.states import (
    ATTEMPT_MOVES,
    OPEN_ATTEMPT,
    PAYMENT_MOVES,
    AttemptState,
    PaymentState,
    StripeEventState,
)
from shared.reconciliation.verify import Scope, verify
from shared.scheduling.pending_work import pending_work
from tests.races.racers import Bound
from tests.races.track import AMOUNT_MINOR, Track


def breaks_of(track: Track, raced: list[Bound]) -> list[str]:
    """Everything that is not as it must be; empty if all is well."""
    return [
        *track.errors,
        *_money(track, raced),
        *_charges(track, raced),
        *_declines(track),
        *_moves(track),
        *_open_ends(track),
        *_events(track),
        *_deadlocks(track),
        *_audit(track),
    ]


def _money(track: Track, raced: list[Bound]) -> Iterator[str]:
    """At most one captured charge per payment, exactly one where a card pays, and the row says the same."""
    captured: dict[str, list[int]] = defaultdict(list)
    for line in track.world.simulator.iter_ledger():
        captured[line.metadata["duecourse_payment_id"]].append(line.amount)
    with track.world.engine.connect() as connection:
        states = {row.id: row.state for row in connection.execute(select(payments.c.id, payments.c.state))}
    for one in raced:
        amounts, state = captured.pop(str(one.payment_id), []), states[one.payment_id]
        expected = [AMOUNT_MINOR] if one.round.must_be_paid else []
        if amounts != expected or (state == PaymentState.PAID) != bool(expected):
            yield f"{_named(one)}: captured {amounts}, expected {expected}; it is {state}"
    for payment_id, amounts in captured.items():
        yield f"captured {amounts} for {payment_id}, which nobody owed"


def _charges(track: Track, raced: list[Bound]) -> Iterator[str]:
    """Each request that reached an issuer belongs to one attempt, and that attempt says so."""
    theirs: dict[str, list[str]] = defaultdict(list)
    for charge in track.listed("charges"):
        theirs[charge["metadata"]["duecourse_payment_id"]].append(charge["id"])
    ours: dict[UUID, list[str]] = defaultdict(list)
    reached_issuer = (AttemptState.SUCCEEDED, AttemptState.DECLINED, AttemptState.AUTHENTICATION_NEEDED)
    with track.world.engine.connect() as connection:
        for payment_id, charge_id in connection.execute(
            select(payment_attempts.c.payment_id, payment_attempts.c.stripe_charge_id).where(
                payment_attempts.c.state.in_(reached_issuer)
            )
        ):
            ours[payment_id].append(charge_id)
    for one in raced:
        if Counter(theirs[str(one.payment_id)]) != Counter(ours[one.payment_id]):
            yield (
                f"{_named(one)}: issuers got {theirs[str(one.payment_id)]}, our attempts say {ours[one.payment_id]}"
            )


def _declines(track: Track) -> Iterator[str]:
    """A decline counts once, by whatever path it is known: dunning and the mark go by the count."""
    became_declined = select(billing_events.c.payment_id).where(
        billing_events.c.type.in_(("attempt_answered", "attempt_settled")),
        billing_events.c.after["state"].astext == AttemptState.DECLINED,
    )
    with track.world.engine.connect() as connection:
        declines = Counter(connection.scalars(became_declined))
        for payment in connection.execute(select(payments.c.id, payments.c.decline_count)):
            if payment.decline_count != declines[payment.id]:
                yield (
                    f"payment {payment.id} counts {payment.decline_count} declines, "
                    f"its attempts had {declines[payment.id]}"
                )


def _moves(track: Track) -> Iterator[str]:
    """Billing events hold only moves that the tables of states allow; verify checks them for gaps."""
    with track.world.engine.connect() as connection:
        for event in connection.execute(
            select(billing_events).where(
                billing_events.c.type.in_(
                    ("payment_moved", "attempt_answered", "attempt_settled", "attempt_became_unknown")
                )
            )
        ):
            before, after = event.before["state"], event.after["state"]
            table, state = (
                (PAYMENT_MOVES, PaymentState) if event.type == "payment_moved" else (ATTEMPT_MOVES, AttemptState)
            )
            if state(after) not in table[state(before)]:
                yield f"{event.type} of payment {event.payment_id}: {before} to {after} is no move"


def _open_ends(track: Track) -> Iterator[str]:
    world = track.world
    with world.engine.connect() as connection:
        pending = pending_work(connection, world.policy, track.now, world.machine())
        for attempt in connection.execute(
            select(payment_attempts).where(payment_attempts.c.state.in_(OPEN_ATTEMPT))
        ):
            yield f"attempt {attempt.number} of payment {attempt.payment_id} is still {attempt.state}"
    if pending:
        yield f"there is work left: {pending}"


def _events(track: Track) -> Iterator[str]:
    """Each of Stripe's events was applied, and once."""
    event_id = billing_events.c.data["stripe_event_id"].astext.label("stripe_event_id")
    with track.world.engine.connect() as connection:
        applied = Counter(
            row.stripe_event_id
            for row in connection.execute(select(event_id).where(billing_events.c.type == "stripe_event_applied"))
        )
        for row in connection.execute(select(stripe_events)):
            times = applied[row.stripe_event_id]
            if row.state != StripeEventState.APPLIED or times != 1:
                yield f"an event {row.type} is {row.state}, applied {times} times; trouble: {row.trouble}"


def _deadlocks(track: Track) -> Iterator[str]:
    """A deadlock's loser repeats and nobody notices; but where locks have one order (I4) there is none."""
    with track.world.engine.connect() as connection:
        found = connection.scalar(text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
    if found:
        yield f"PostgreSQL had to break {found} deadlocks: two transactions lock in different orders"


def _audit(track: Track) -> Iterator[str]:
    """The product's verify, without patience, with the processor's ledger."""
    world = track.world
    report = verify(
        world.engine,
        Scope(now=track.now, machine_now=world.machine(), forgotten_after=timedelta(0)),
        gateways=world.runtime.gateways,
        coverages=world.policy.coverages,
    )
    for result in report.results:
        yield from (f"verify, {result.check.name}: {one.what}" for one in result.breaks)
        if result.not_checked:
            yield f"verify, {result.check.name}: not checked, {result.not_checked}"
    if report.open_findings:
        yield f"verify: {report.open_findings} findings are open"
    for total in report.sums:
        if total.theirs_minor != total.ours_minor:
            yield f"the processor has {total.theirs_minor} {total.currency}, our records have {total.ours_minor}"


def _named(one: Bound) -> str:
    roles = ", ".join(role.name for role in one.round.roles if role is not None)
    return f"round {one.round.number} ({one.round.situation}; {roles}), payment {one.payment_id}"
