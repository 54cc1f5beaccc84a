"""The explanation of one payment as data: its attempts, its skipped attempts with their reasons, its next step.

Read from billing events and rows in a handful of queries. The command line prints text, the dashboard HTML.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from shared.accounts.standing import count_automatic_declines
from shared.db.rows import (
    AccountRow,
    AttemptRow,
    CardRow,
    PaymentRow,
    SettingsRow,
    read_first,
    read_one,
    read_one_or_none,
)
from shared.db.tables.accounts import accounts, cards, payment_settings
from shared.db.tables.invoices import invoices
from shared.db.tables.payments import payment_attempts, payment_intents, payments
from shared.db.tables.system import billing_events, findings
from shared.domain.event_types import STATE_EVENTS, EventType
from shared.explain.descriptions import describe_attempt
from shared.explain.next_step import NextStep, Situation, next_step_of
from shared.payments.look import waits_its_turn
from shared.payments.network_budgets import find_block, read_card_budget
from shared.payments.state_changes import open_attempt
from shared.payments.unrecorded import record_error_of
from shared.policy import Policy

#: Events that are shown as part of their attempt.
_ATTEMPT_EVENTS = (EventType.ATTEMPT_ANSWERED, EventType.ATTEMPT_SETTLED, EventType.ATTEMPT_BECAME_UNKNOWN)
_CODES = ("error_type", "code", "decline_code", "advice_code", "network_advice_code", "network_decline_code")


@dataclass(frozen=True)
class CardSummary:
    """What may be shown of a card."""

    brand: str
    last4: str
    exp_month: int
    exp_year: int
    is_detached: bool
    block_reason: str | None = None


@dataclass(frozen=True)
class AttemptResult:
    """One outcome recorded for an attempt, at business time `at`."""

    at: datetime
    state: str
    reason: str | None
    actor: str


@dataclass(frozen=True)
class Attempt:
    """One attempt, with everything that the processor returned. `at` is business time."""

    at: datetime
    attempt_id: UUID
    number: int
    kind: str
    state: str
    meaning: str
    trigger: str
    lane: str
    requested_by: str | None
    card: CardSummary | None
    outcome_reason: str | None
    codes: Mapping[str, str]
    http_status: int | None
    stripe_request_id: str | None
    stripe_charge_id: str | None
    stripe_payment_intent_id: str | None
    ordinal: int
    results: tuple[AttemptResult, ...]


@dataclass(frozen=True)
class SkippedAttempt:
    """Why no charge was sent, who decided that, the next attempt, and the new state if it changed."""

    at: datetime
    reason: str
    actor: str
    trigger: str | None
    next_attempt_at: datetime | None
    next_attempt_on: date | None
    request_reason: str | None
    new_state: str | None = None


@dataclass(frozen=True)
class StateChange:
    """A change of the payment's state, or of when and how it is charged."""

    at: datetime
    actor: str
    reason: str | None
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True)
class OtherEvent:
    """Any other billing event of the payment; `attempt_number` is the attempt that it is about."""

    at: datetime
    type: str
    actor: str
    reason: str | None
    data: Mapping[str, Any]
    attempt_number: int | None = None


#: Columns that an operator doesn't need: others say the same in words, or they are internal.
_MONEY_PATH_COLUMNS = ("lane", "waiting_for_revision_after", "run_id", "requested_by", "not_sent_count")
_HIDDEN_COLUMNS = frozenset(
    (*_MONEY_PATH_COLUMNS, "state", "paid_at", "first_declined_at", "last_decline_code"),
)


def shown_changes(change: StateChange) -> dict[str, Any]:
    """Return what a state change changed and an operator needs: columns with their new values."""
    return {
        name: value
        for name, value in change.after.items()
        if name not in _HIDDEN_COLUMNS and value != change.before.get(name)
    }


Entry = Attempt | SkippedAttempt | StateChange | OtherEvent


@dataclass(frozen=True)
class OpenFinding:
    """An open finding about the payment, for an operator to resolve."""

    kind: str
    found_at: datetime
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Explanation:
    """One payment, explained. Instants are business time unless they say otherwise; amounts are minor units."""

    payment_id: UUID
    kind: str
    invoice_number: str | None
    period: date | None
    account_id: UUID
    account_external_id: str
    account_name: str
    standing: str
    is_suspended: bool
    coverage: str
    time_zone: str
    currency: str
    amount_minor: int
    state: str
    state_reason: str | None
    state_since_at: datetime | None
    due_on: date
    pays_by: str
    card: CardSummary | None
    decline_count: int
    attempt_count: int
    timeline: tuple[Entry, ...]
    next_step: NextStep
    findings: tuple[OpenFinding, ...]
    now: datetime


def find_payments(connection: Connection, wanted: str, limit: int = 100) -> list[UUID]:
    """Return the payments of a payment id, an invoice number or an account's external id.

    An account's payments come newest first, at most `limit`. LookupError if nothing matches.
    """
    wanted = wanted.strip()
    try:
        by_id = connection.scalar(select(payments.c.id).where(payments.c.id == UUID(wanted)))
    except ValueError:
        by_id = None
    if by_id is not None:
        return [by_id]
    by_number = connection.scalar(
        select(payments.c.id)
        .join(invoices, invoices.c.id == payments.c.invoice_id)
        .where(invoices.c.number == wanted.upper())
    )
    if by_number is not None:
        return [by_number]
    account_id = connection.scalar(select(accounts.c.id).where(accounts.c.external_id == wanted))
    if account_id is None:
        raise LookupError(f"no payment id, invoice number or account matches {wanted!r}")
    return list(
        connection.scalars(
            select(payments.c.id)
            .where(payments.c.account_id == account_id)
            .order_by(payments.c.due_on.desc(), payments.c.created_at.desc())
            .limit(limit)
        )
    )


def explain_payment(
    connection: Connection, policy: Policy, payment_id: UUID, now: datetime, machine_now: datetime
) -> Explanation:
    """Explain one payment at business time `now`; LookupError if there is none."""
    payment = read_one_or_none(PaymentRow, connection.execute(select(payments).where(payments.c.id == payment_id)))
    if payment is None:
        raise LookupError(f"there is no payment {payment_id}")
    account = read_one(AccountRow, connection.execute(select(accounts).where(accounts.c.id == payment.account_id)))
    invoice = connection.execute(select(invoices).where(invoices.c.id == payment.invoice_id)).one_or_none()
    situation = _situation(connection, policy, payment, account.standing, now, machine_now)
    events = connection.execute(
        select(billing_events).where(billing_events.c.payment_id == payment_id).order_by(billing_events.c.id)
    ).all()
    return Explanation(
        payment_id=payment.id,
        kind=payment.kind,
        invoice_number=None if invoice is None else invoice.number,
        period=None if invoice is None else invoice.period,
        account_id=account.id,
        account_external_id=account.external_id,
        account_name=account.name,
        standing=account.standing,
        is_suspended=account.is_suspended,
        coverage=payment.coverage,
        time_zone=policy.coverage(payment.coverage).time_zone,
        currency=payment.currency,
        amount_minor=payment.amount_minor,
        state=payment.state,
        state_reason=payment.state_reason,
        state_since_at=_state_since(events),
        due_on=payment.due_on,
        pays_by=situation.settings.kind,
        card=_card_summary(situation.card, situation.block_reason),
        decline_count=payment.decline_count,
        attempt_count=payment.attempt_count,
        timeline=tuple(_timeline(events, _attempts(connection, payment_id, events))),
        next_step=next_step_of(situation),
        findings=_findings(connection, payment_id),
        now=now,
    )


def _situation(
    connection: Connection, policy: Policy, payment: PaymentRow, standing: str, now: datetime, machine_now: datetime
) -> Situation:
    found = connection.execute(select(payment_settings).where(payment_settings.c.id == payment.settings_id))
    settings = read_one(SettingsRow, found)
    card = read_one_or_none(
        CardRow, connection.execute(select(cards).where(cards.c.id == settings.primary_card_id))
    )
    attempt = open_attempt(connection, payment.id)
    block = None if card is None else find_block(connection, payment.coverage, card.fingerprint)
    return Situation(
        payment=payment,
        standing=standing,
        settings=settings,
        card=card,
        block_reason=None if block is None else block.reason,
        open_attempt=attempt,
        waits_its_turn=waits_its_turn(connection, payment.id, now, machine_now),
        record_error=None if attempt is None else record_error_of(connection, attempt),
        automatic_declines=count_automatic_declines(connection, payment.id),
        card_budget=None
        if card is None
        else read_card_budget(connection, payment.coverage, card.fingerprint, card.network, now),
        policy=policy,
        now=now,
        machine_now=machine_now,
    )


def _card_summary(card: CardRow | None, block_reason: str | None = None) -> CardSummary | None:
    if card is None:
        return None
    return CardSummary(
        card.brand, card.last4, card.exp_month, card.exp_year, card.detached_at is not None, block_reason
    )


def _state_since(events: Iterable[Row[Any]]) -> datetime | None:
    """When the payment entered its state; rescheduling doesn't count."""
    since: datetime | None = None
    for event in events:
        if event.type in STATE_EVENTS and event.type != EventType.PAYMENT_RESCHEDULED:
            since = event.at
    return since


def _attempts(connection: Connection, payment_id: UUID, events: Iterable[Row[Any]]) -> dict[UUID, Attempt]:
    results: dict[UUID, list[AttemptResult]] = {}
    for event in events:
        if event.type in _ATTEMPT_EVENTS and event.attempt_id is not None:
            result = AttemptResult(event.at, event.after.get("state", ""), event.reason, event.actor)
            results.setdefault(event.attempt_id, []).append(result)
    rows = connection.execute(
        select(
            payment_attempts,
            payment_intents.c.ordinal,
            payment_intents.c.stripe_payment_intent_id,
            *(cards.c[name].label(f"card_{name}") for name in ("brand", "last4", "exp_month", "exp_year")),
            cards.c.detached_at.label("card_detached_at"),
        )
        .join(payment_intents, payment_intents.c.id == payment_attempts.c.payment_intent_id)
        .join(cards, cards.c.id == payment_attempts.c.card_id, isouter=True)
        .where(payment_attempts.c.payment_id == payment_id)
        .order_by(payment_attempts.c.number)
    )
    return {row.id: _attempt(row, tuple(results.get(row.id, ()))) for row in rows}


def _attempt(row: Row[Any], results: tuple[AttemptResult, ...]) -> Attempt:
    card = None
    if row.card_last4 is not None:
        is_detached = row.card_detached_at is not None
        card = CardSummary(row.card_brand, row.card_last4, row.card_exp_month, row.card_exp_year, is_detached)
    return Attempt(
        at=row.started_at,
        attempt_id=row.id,
        number=row.number,
        kind=row.kind,
        state=row.state,
        meaning=describe_attempt(read_first(AttemptRow, row)),
        trigger=row.trigger,
        lane=row.lane,
        requested_by=row.requested_by,
        card=card,
        outcome_reason=row.outcome_reason,
        codes={name: value for name in _CODES if (value := getattr(row, name)) is not None},
        http_status=row.http_status,
        stripe_request_id=row.stripe_request_id,
        stripe_charge_id=row.stripe_charge_id,
        stripe_payment_intent_id=row.stripe_payment_intent_id,
        ordinal=row.ordinal,
        results=results,
    )


def _timeline(events: Iterable[Row[Any]], attempts: dict[UUID, Attempt]) -> list[Entry]:
    """List the events in order; a state change and the skipped attempt that caused it are one entry."""
    timeline: list[Entry] = []
    remaining = dict(attempts)
    for event in events:
        match event.type:
            case EventType.ATTEMPT_STARTED if event.attempt_id in remaining:
                timeline.append(remaining.pop(event.attempt_id))
            case "charge_not_attempted":
                new_state = None
                previous = timeline[-1] if timeline else None
                if isinstance(previous, StateChange) and (previous.at, previous.reason) == (event.at, event.reason):
                    timeline.pop()
                    new_state = previous.after.get("state")
                timeline.append(_skipped(event, new_state))
            case EventType.PAYMENT_MOVED | EventType.PAYMENT_RESCHEDULED:
                timeline.append(StateChange(event.at, event.actor, event.reason, event.before, event.after))
            case kind if kind not in _ATTEMPT_EVENTS:
                about = attempts.get(event.attempt_id)
                number = None if about is None else about.number
                timeline.append(OtherEvent(event.at, event.type, event.actor, event.reason, event.data, number))
    return [*timeline, *remaining.values()]  # an attempt without events would be a defect; it is shown anyway


def _skipped(event: Row[Any], new_state: str | None) -> SkippedAttempt:
    at, on = event.data.get("next_attempt_at"), event.data.get("next_attempt_on")
    return SkippedAttempt(
        at=event.at,
        reason=event.reason or "no reason was recorded",
        actor=event.actor,
        trigger=event.data.get("trigger"),
        next_attempt_at=datetime.fromisoformat(at) if at else None,
        next_attempt_on=date.fromisoformat(on) if on else None,
        request_reason=event.data.get("asked_because"),
        new_state=new_state,
    )


def _findings(connection: Connection, payment_id: UUID) -> tuple[OpenFinding, ...]:
    rows = connection.execute(
        select(findings)
        .where(findings.c.payment_id == payment_id, findings.c.resolved_at.is_(None))
        .order_by(findings.c.found_at)
    )
    return tuple(OpenFinding(row.kind, row.found_at, row.details) for row in rows)
