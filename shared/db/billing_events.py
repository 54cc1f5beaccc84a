"""Billing events: one row per change, written in the change's own transaction, never altered (I10)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert

from shared.db.tables.system import billing_events
from shared.domain.event_types import EventType
from shared.domain.refusals import Refused

#: Statements of the money path are built once: building one costs as much as executing it in PostgreSQL.
_INSERT = insert(billing_events)


@dataclass(frozen=True)
class BillingEvent:
    """Who changed what, why, from what to what. Ids, codes and amounts only, never personal data."""

    type: EventType
    at: datetime
    actor: str
    reason: str | None = None
    account_id: UUID | None = None
    payment_id: UUID | None = None
    attempt_id: UUID | None = None
    run_id: UUID | None = None
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


def record_event(connection: Connection, event: BillingEvent) -> None:
    """Insert a billing event, in the caller's transaction."""
    connection.execute(_INSERT, vars(event))


@dataclass(frozen=True)
class Cause:
    """Who changes something, when (business time) and why; billing events record it."""

    actor: str
    at: datetime
    reason: str = ""
    attempt_id: UUID | None = None
    run_id: UUID | None = None


def record_refusal(
    connection: Connection,
    what: str,
    refused: Refused,
    cause: Cause,
    account_id: UUID,
    payment_id: UUID | None = None,
) -> None:
    """Record a refused charge, like every attempt that was not made; `because` says who requested it, and why."""
    record_event(
        connection,
        BillingEvent(
            type=EventType.OPERATOR_ACTION_REFUSED,
            at=cause.at,
            actor=cause.actor,
            reason=refused.reason,
            account_id=account_id,
            payment_id=payment_id,
            data={"asked_for": what, "asked_because": cause.reason},
        ),
    )
