"""The audit log: who did what, when, to what, why, and with which result. Rows can't be changed (trigger).

Billing events tell each payment's history; the audit log tells each operator's. An action and its audit entry are
written in one transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, insert

from shared.db.billing_events import Cause
from shared.db.tables.operators import audit_log
from shared.domain.refusals import Refused


class AuditAction(StrEnum):
    """Audited actions. Permanent names."""

    SESSION_BEGIN = "session.begin"
    SESSION_END = "session.end"
    SESSION_END_ALL = "session.end_all"
    USER_ADD = "person.add"
    USER_ROLE = "person.role"
    USER_LOCK = "person.lock"
    USER_UNLOCK = "person.unlock"
    USER_PASSWORD = "person.password"  # noqa: S105  # a name, not a secret
    USER_ZONE = "person.zone"
    PAYMENT_CHARGE = "payment.charge"
    PAYMENT_HOLD = "payment.hold"
    PAYMENT_RELEASE = "payment.release"
    PAYMENT_WRITE_OFF = "payment.write_off"
    PAYMENT_VOID = "payment.void"
    PAYMENT_WITHDRAW_CLOSE = "payment.withdraw_close"
    PAYMENT_LOOK_UP = "payment.look_up"
    PAYMENT_END_ATTEMPT = "payment.end_attempt"
    ACCOUNT_MARK = "account.mark"
    ACCOUNT_UNMARK = "account.unmark"
    CUSTOMER_FORGET = "customer.forget"
    CARD_UNBLOCK = "card.unblock"
    BULK_START = "bulk.start"
    BULK_STOP = "bulk.stop"
    BULK_RESUME = "bulk.resume"
    BULK_FINISH = "bulk.finish"
    RUN_START = "run.start"
    RUN_CONFIRM = "run.confirm"
    RUN_AGAIN = "run.again"
    DEAD_LETTER_REQUEUE = "dead_letter.requeue"
    DEAD_LETTER_DISCARD = "dead_letter.discard"
    QUEUE_PAUSE = "lane.pause"
    QUEUE_RESUME = "lane.resume"
    STRIPE_EVENT_APPLY = "stripe_event.apply"
    STRIPE_EVENT_READ = "stripe_event.read"
    FINDING_RESOLVE = "finding.resolve"
    STRIPE_ACCOUNT_CHANGE = "stripe_account.change"
    EXPORT = "export"


@dataclass(frozen=True)
class AuditEntry:
    """One entry. `at` is business time.

    `snapshot` is what the operator saw before confirming (counts, sums, a digest); `result` is what the action did.
    Ids, counts and words, never personal data or secrets.
    """

    action: AuditAction
    actor: str
    at: datetime
    subject_kind: str | None = None
    subject: str | None = None
    reason: str | None = None
    outcome: str = "done"  # done, refused, started, finished
    snapshot: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    role: str | None = None
    address: str | None = None


def record_action(connection: Connection, action: AuditEntry) -> None:
    """Add an entry to the audit log, in the caller's transaction."""
    connection.execute(insert(audit_log).values(**vars(action)))


def record_decision(
    connection: Connection,
    action: AuditAction,
    subject: tuple[str, str],
    cause: Cause,
    refused: Refused | None,
    snapshot: Mapping[str, Any],
) -> None:
    """Add the entry of an action that was shown first, done or refused. `subject`: its kind, and which one."""
    kind, name = subject
    record_action(
        connection,
        AuditEntry(
            action,
            cause.actor,
            cause.at,
            subject_kind=kind,
            subject=name,
            reason=cause.reason.strip() or None,
            outcome="done" if refused is None else "refused",
            snapshot=snapshot,
            result={} if refused is None else {"reason": refused.reason},
        ),
    )
