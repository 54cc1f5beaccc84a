"""Operators mark accounts for suspension and remove the mark, by the same transition as automatic marks (I14).

Automatic marks are in `standing.py`. `now` is business time.
"""

from dataclasses import dataclass, replace
from datetime import UTC, date, timedelta
from uuid import UUID

from sqlalchemy import Connection, select

from shared.accounts.standing import SPARED_UNTIL, change_standing, lock_account, unpaid_of
from shared.db.billing_events import Cause, record_refusal
from shared.db.rows import AccountRow
from shared.db.tables.accounts import accounts
from shared.domain.dunning import StandingDecision, decide_standing
from shared.domain.refusals import NO_REASON, Refused
from shared.domain.states import Standing
from shared.policy import Policy

#: After an unmarking no automatic mark is set for this long, unless another day is given, and at most for this
#: long.
SPARED_FOR, LONGEST_SPARED = timedelta(days=7), timedelta(days=90)


@dataclass(frozen=True)
class Stands:
    """The account's current standing."""

    account_id: UUID
    standing: Standing


def mark_account(connection: Connection, account_id: UUID, cause: Cause) -> Stands | Refused:
    """Mark an account for suspension. The mark goes once no overdue or declined payment is unpaid, as always."""
    account = _lock_account(connection, account_id)
    if account is None:
        return _no_account(account_id)
    refused = NO_REASON if not cause.reason.strip() else None
    if account.standing == Standing.MARKED_FOR_SUSPENSION:
        refused = Refused(f"it is already marked: {account.standing_reason}", "nothing, or remove the mark")
    if refused is not None:
        record_refusal(connection, "mark", refused, cause, account.id)
        return refused
    said = f"marked by {cause.actor}: {cause.reason.strip()}"
    decision = StandingDecision(Standing.MARKED_FOR_SUSPENSION, said)
    change_standing(connection, account, decision, replace(cause, reason=said))
    return Stands(account.id, decision.standing)


def unmark_account(
    connection: Connection,
    policy: Policy,
    account_id: UUID,
    until: date | None,
    cause: Cause,
) -> Stands | Refused:
    """Remove the mark for suspension, by whatever it was set.

    The account isn't marked again before the day `until` (a week, unless given) for what is known now. One more
    decline is new, and marks it if the rules say so. Payments that are paid or closed count at once.
    """
    account = _lock_account(connection, account_id)
    if account is None:
        return _no_account(account_id)
    today = cause.at.astimezone(UTC).date()
    until = until or today + SPARED_FOR
    refused = _refusal_of_unmark(account, until, cause.reason, today)
    if refused is not None:
        record_refusal(connection, "unmark", refused, cause, account.id)
        return refused
    stands = decide_standing(
        Standing.PAST_DUE, unpaid_of(connection, account.id), policy.dunning, today, is_spared=True
    ).standing
    said = f"unmarked by {cause.actor} until {until}: {cause.reason.strip()}"
    data = {SPARED_UNTIL: until.isoformat()}
    change_standing(connection, account, StandingDecision(stands, said), replace(cause, reason=said), data=data)
    return Stands(account.id, stands)


def _refusal_of_unmark(account: AccountRow, until: date, reason: str, today: date) -> Refused | None:
    if not reason.strip():
        return NO_REASON
    if account.standing != Standing.MARKED_FOR_SUSPENSION:
        return Refused(f"it isn't marked: it is {account.standing}", "nothing")
    if until <= today:
        return Refused(f"{until} isn't after today", "give a later day: until then it isn't marked again")
    if until > today + LONGEST_SPARED:
        return Refused(f"{until} is more than {LONGEST_SPARED.days} days away", "give an earlier day")
    return None


def _lock_account(connection: Connection, account_id: UUID) -> AccountRow | None:
    known = connection.scalar(select(accounts.c.id).where(accounts.c.id == account_id))
    return None if known is None else lock_account(connection, account_id)


def _no_account(account_id: UUID) -> Refused:
    return Refused(f"there is no account {account_id}", "search for it by its number")
