"""Issues one chunk of accounts: a few statements, all in the caller's transaction.

A rollback undoes all of it together: invoices, lines, payments, the fees' marks, the counter that numbers come from
(so no number is ever missing), the billing events, and the cursor that the caller writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from shared.domain.states import PaymentState, SettingsKind
from shared.failpoints import Failpoint, reach
from shared.invoicing.bills import BILLS, LOCKED_CANDIDATES, LOCKED_LINES, SkipReason
from shared.invoicing.counts import Counts
from shared.invoicing.locked_accounts import AccountInPart, lock_free_accounts
from shared.invoicing.month import Month
from shared.invoicing.skipped_accounts import report_skipped_accounts, resolve_invoiced_accounts

#: Why month start puts a payment into its state.
STATE_REASON: dict[PaymentState, str] = {
    PaymentState.DUE: "invoiced at month start",
    PaymentState.AWAITING_TRANSFER: "the customer pays by bank transfer",
    PaymentState.PAID: "the total is zero: there is nothing to collect",
    PaymentState.CARRIED_FORWARD: "below the processor's minimum: it becomes a fee of the next month",
}


@dataclass(frozen=True)
class IssuedChunk:
    """The result of one chunk; `last_account_id` is None when no account was left. `locked` were passed over."""

    counts: Counts
    last_account_id: UUID | None
    locked: tuple[UUID, ...] = ()


@dataclass(frozen=True)
class Part:
    """The accounts of one chunk: the next `accounts` after `after` in the order of their ids, or of those `only`.

    With `passes_over_locked`, accounts are left out whose rows another transaction has locked; otherwise the chunk
    waits for them.
    """

    after: UUID
    accounts: int
    only: tuple[UUID, ...] | None = None
    passes_over_locked: bool = False

    def parameters(self) -> dict[str, Any]:
        """Bind parameters of a chunk's statements."""
        only = None if self.only is None else list(self.only)
        return {"after": self.after, "accounts": self.accounts, "only": only, "locked": []}


@dataclass(frozen=True)
class Issuing:
    """What run a chunk is issued for, and when; `now` is business time."""

    run_id: UUID
    requested_by: str
    month: Month
    now: datetime

    def parameters(self) -> dict[str, Any]:
        """Bind parameters of a chunk's statements."""
        issued_on = self.month.issued_on(self.now)
        return {
            **self.month.parameters(),
            "period": str(self.month.period),
            "run_id": self.run_id,
            "requested_by": self.requested_by,
            "now": self.now,
            "issued_on": issued_on,
            "year": issued_on.year,
            "number_prefix": f"{self.month.coverage.invoice_prefix}-{issued_on.year}-",
            "card_due_on": self.month.due_on(SettingsKind.CARD, issued_on),
            "transfer_due_on": self.month.due_on(SettingsKind.BANK_TRANSFER, issued_on),
            "next_period": self.month.period.next.first_day,
            **{f"reason_{state}": reason for state, reason in STATE_REASON.items()},
        }


def issue_chunk(connection: Connection, issuing: Issuing, part: Part) -> IssuedChunk:
    """Issue the invoices of a part of the accounts, in the order of their ids."""
    _plan_for_this_chunk(connection)
    parameters = {**issuing.parameters(), **part.parameters()}
    found: Sequence[AccountInPart] = ()
    if part.passes_over_locked:
        found = lock_free_accounts(connection, parameters)
        locked = [account.id for account in found if account.is_locked]
        parameters |= {"locked": locked, "accounts": part.accounts - len(locked)}
    _load(connection, parameters)
    issued = _count(connection, found)
    reach(Failpoint.GENERATE_CHUNK_GATHERED)
    if issued.counts.accounts_seen == 0:
        return issued
    if issued.counts.invoices:
        first_sequence = _take_numbers(connection, parameters, issued.counts.invoices)
        reach(Failpoint.GENERATE_CHUNK_NUMBERED)
        for statement in _ISSUE:
            connection.execute(text(statement), {**parameters, "first_sequence": first_sequence})
        if issued.counts.carried_forward:
            connection.execute(text(_CARRY_FORWARD), parameters)
        resolve_invoiced_accounts(connection, parameters)
    report_skipped_accounts(connection, parameters)
    reach(Failpoint.GENERATE_CHUNK_WRITTEN)
    return issued


def _plan_for_this_chunk(connection: Connection) -> None:
    """A chunk is a hundred-thousandth of some tables: a generic plan would scan them whole, and JIT costs more
    than it saves."""
    connection.execute(
        text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)")
    )


def _load(connection: Connection, parameters: dict[str, Any]) -> None:
    """Lock the rows to bill and copy them into temporary tables, so that every statement reads the same."""
    for table, select in (("candidates", LOCKED_CANDIDATES), ("lines", LOCKED_LINES), ("bills", _NUMBERED_BILLS)):
        connection.execute(text(f"CREATE TEMPORARY TABLE {table} ON COMMIT DROP AS {select}"), parameters)
        connection.execute(text(f"ANALYZE {table}"))


def _count(connection: Connection, found: Sequence[AccountInPart]) -> IssuedChunk:
    counts = Counts()
    rows = connection.execute(
        text(
            "SELECT skipped, CASE WHEN skipped IS NULL THEN state END AS state, count(*) AS accounts,"
            " sum(line_count) AS lines, sum(total_minor) AS total_minor FROM bills GROUP BY 1, 2"
        )
    )
    for row in rows:
        if row.skipped is not None:
            counts.add_skipped(SkipReason(row.skipped), row.accounts)
        else:
            counts.add_invoices(PaymentState(row.state), row.accounts, int(row.lines), int(row.total_minor))
    last = connection.scalar(text("SELECT account_id FROM bills ORDER BY account_id DESC LIMIT 1"))
    locked = tuple(account.id for account in found if account.is_locked)
    return IssuedChunk(counts, found[-1].id if found else last, locked)


def _take_numbers(connection: Connection, parameters: dict[str, Any], how_many: int) -> int:
    """Return the first of `how_many` consecutive numbers; the counter stays locked until the transaction ends."""
    last: int = connection.execute(
        text("""
            INSERT INTO invoice_counters AS c (coverage, year, last_sequence) VALUES (:coverage, :year, :how_many)
            ON CONFLICT (coverage, year) DO UPDATE SET last_sequence = c.last_sequence + excluded.last_sequence
            RETURNING last_sequence
        """),
        {**parameters, "how_many": how_many},
    ).scalar_one()
    return last - how_many + 1


_NUMBERED_BILLS = f"""
    SELECT gen_random_uuid() AS invoice_id, gen_random_uuid() AS payment_id,
           row_number() OVER (PARTITION BY skipped IS NULL ORDER BY account_id) - 1 AS place, bill.*
    FROM ({BILLS}) bill
"""  # noqa: S608  # our own constant

#: `lpad` truncates longer text: the millionth invoice of a year has seven digits.
_INVOICES = """
    INSERT INTO invoices (id, account_id, coverage, period, number, number_year, number_sequence, currency,
                          total_minor, issued_on, due_on, billing_snapshot, run_id)
    SELECT b.invoice_id, b.account_id, :coverage, :first_day,
           :number_prefix || lpad(n.sequence, greatest(6, length(n.sequence)), '0'),
           :year, :first_sequence + b.place,
           :currency, b.total_minor, :issued_on,
           CASE b.kind WHEN 'bank_transfer' THEN CAST(:transfer_due_on AS date) ELSE :card_due_on END,
           jsonb_strip_nulls(jsonb_build_object('name', a.name, 'email', a.email))
               || CASE jsonb_typeof(s.billing_details)
                      WHEN 'object' THEN jsonb_strip_nulls(s.billing_details) ELSE '{}' END
               || jsonb_build_object('account_external_id', a.external_id, 'coverage', s.coverage,
                                     'language', s.language),
           :run_id
    FROM bills b
    JOIN payment_settings s ON s.id = b.settings_id
    JOIN accounts a ON a.id = b.account_id,
    LATERAL (SELECT CAST(:first_sequence + b.place AS text) AS sequence) n
    WHERE b.skipped IS NULL
    ORDER BY b.place
"""

_INVOICE_LINES = """
    INSERT INTO invoice_lines (invoice_id, position, fee_id, service_id, description, from_on, until_on,
                               active_days, unit_price_minor, amount_minor)
    SELECT b.invoice_id, l.position, l.fee_id, l.service_id, l.description, l.from_on, l.until_on,
           l.active_days, l.unit_price_minor, l.amount_minor
    FROM bills b JOIN lines l ON l.account_id = b.account_id
    WHERE b.skipped IS NULL
    ORDER BY b.place, l.position
"""

_MARK_FEES = """
    UPDATE fees f SET invoice_id = b.invoice_id
    FROM bills b JOIN lines l ON l.account_id = b.account_id
    WHERE b.skipped IS NULL AND f.id = l.fee_id
"""

#: The one documented exception to "payments move through shared/payments": payments are created here.
_PAYMENTS = """
    INSERT INTO payments (id, kind, account_id, settings_id, coverage, invoice_id, currency, amount_minor, state,
                          state_reason, lane, trigger, requested_by, next_attempt_at, due_on, run_id, paid_at,
                          period)
    SELECT b.payment_id, 'monthly', b.account_id, b.settings_id, :coverage, b.invoice_id, :currency, b.total_minor,
           b.state,
           CASE b.state WHEN 'due' THEN :reason_due WHEN 'awaiting_transfer' THEN :reason_awaiting_transfer
                        WHEN 'paid' THEN :reason_paid WHEN 'carried_forward' THEN :reason_carried_forward END,
           'batch', 'month_start', :requested_by,
           CASE b.state WHEN 'due' THEN CAST(:now AS timestamptz) END,
           CASE b.kind WHEN 'bank_transfer' THEN CAST(:transfer_due_on AS date) ELSE :card_due_on END,
           :run_id, CASE b.state WHEN 'paid' THEN CAST(:now AS timestamptz) END, CAST(:first_day AS date)
    FROM bills b
    WHERE b.skipped IS NULL
    ORDER BY b.place
"""

_BILLING_EVENTS = """
    INSERT INTO billing_events (at, type, actor, reason, account_id, payment_id, run_id, after, data)
    SELECT :now, 'invoice_issued', 'worker', p.state_reason, b.account_id, b.payment_id, :run_id,
           jsonb_build_object('state', b.state),
           jsonb_build_object('invoice_id', b.invoice_id, 'number', i.number, 'period', CAST(:period AS text),
                              'lines', b.line_count, 'amount_minor', b.total_minor,
                              'currency', CAST(:currency AS text))
    FROM bills b JOIN payments p ON p.id = b.payment_id JOIN invoices i ON i.id = b.invoice_id
    WHERE b.skipped IS NULL
    ORDER BY b.place
"""

_ISSUE = (_INVOICES, _INVOICE_LINES, _MARK_FEES, _PAYMENTS, _BILLING_EVENTS)

_CARRY_FORWARD = """
    INSERT INTO fees (account_id, coverage, external_id, period, description, amount_minor, currency,
                      carried_from_payment_id)
    SELECT b.account_id, :coverage, 'carried:' || b.payment_id, :next_period,
           'Carried forward from invoice ' || i.number, b.total_minor, :currency, b.payment_id
    FROM bills b JOIN invoices i ON i.id = b.invoice_id
    WHERE b.skipped IS NULL AND b.state = 'carried_forward'
"""
