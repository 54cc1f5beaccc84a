"""What a month's run would do, from the same SELECTs as the run, in a read-only transaction."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, text

from shared.domain.states import PaymentState, SettingsKind
from shared.invoicing.bills import BILLS, CANDIDATES, LINES, WITHOUT_SETTINGS, SkipReason
from shared.invoicing.counts import Counts
from shared.invoicing.month import BEFORE_ALL, Month

#: As many of the largest invoices as an operator reads before confirming.
LARGEST = 10
#: Skipped accounts named per reason; the counts cover all. Keeps the answer small for a million trials.
EXAMPLES = 100


@dataclass(frozen=True)
class Sum:
    """Invoices of one kind of payment that start in one state; minor units."""

    kind: SettingsKind
    state: PaymentState
    invoices: int
    lines: int
    total_minor: int


@dataclass(frozen=True)
class LargeInvoice:
    """One of the largest invoices; minor units."""

    account_external_id: str
    kind: SettingsKind
    lines: int
    total_minor: int


@dataclass(frozen=True)
class Preview:
    """What would be issued. `counts` are those that the finished run's row would have."""

    month: Month
    counts: Counts
    sums: list[Sum] = field(default_factory=list)
    largest: list[LargeInvoice] = field(default_factory=list)
    #: External ids of skipped accounts by reason, in the order of ids, at most EXAMPLES of each.
    skipped: dict[SkipReason, list[str]] = field(default_factory=dict)
    #: Over accounts, totals and initial states: a different digest means that something else would be issued.
    digest: str = ""

    def as_json(self) -> dict[str, Any]:
        """For scripts: amounts in minor units."""
        return {
            "period": str(self.month.period),
            "coverage": self.month.coverage.code,
            "currency": self.month.coverage.currency,
            "counts": self.counts.stored(),
            "sums": [vars(row) for row in self.sums],
            "largest": [vars(row) for row in self.largest],
            "skipped_accounts": dict(self.skipped),
            "digest": self.digest,
        }


def preview_month(engine: Engine, month: Month, *, limit_s: int | None = None) -> Preview:
    """Return what the month's run would issue now, within `limit_s`. Writes nothing and locks nothing."""
    with engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            # The bills are read several times; for 100,000 accounts that is some megabytes.
            connection.execute(text("SELECT set_config('jit', 'off', true), set_config('work_mem', '64MB', true)"))
            if limit_s is not None:
                connection.execute(text("SELECT set_config('statement_timeout', :s, true)"), {"s": f"{limit_s}s"})
            answer = connection.execute(
                text(_PREVIEW),
                {
                    **month.parameters(),
                    "after": BEFORE_ALL,
                    "accounts": None,
                    "only": None,
                    "locked": [],
                    "largest": LARGEST,
                    "examples": EXAMPLES,
                },
            ).one()
    return _read(month, answer.sums or [], answer.largest or [], answer.skipped or [], answer.digest)


def _read(
    month: Month,
    sums: list[dict[str, Any]],
    largest: list[dict[str, Any]],
    skipped: list[dict[str, Any]],
    digest: str,
) -> Preview:
    preview = Preview(month, Counts(), digest=digest)
    for row in sums:
        found = Sum(
            SettingsKind(row["kind"]), PaymentState(row["state"]), row["invoices"], row["lines"], row["total_minor"]
        )
        preview.sums.append(found)
        preview.counts.add_invoices(found.state, found.invoices, found.lines, found.total_minor)
    for row in largest:
        preview.largest.append(
            LargeInvoice(row["external_id"], SettingsKind(row["kind"]), row["line_count"], row["total_minor"])
        )
    for row in skipped:
        reason = SkipReason(row["skipped"])
        preview.counts.add_skipped(reason, row["accounts"])
        preview.skipped[reason] = row["examples"]
    return preview


_PREVIEW = f"""
    WITH candidates AS MATERIALIZED ({CANDIDATES}),
    lines AS MATERIALIZED ({LINES}),
    bills AS MATERIALIZED ({BILLS}),
    passed_over AS (
        SELECT account_id, skipped FROM bills WHERE skipped IS NOT NULL
        UNION ALL
        SELECT account_id, 'no_payment_settings' FROM ({WITHOUT_SETTINGS}) without_settings
    )
    SELECT
        (SELECT jsonb_agg(s ORDER BY s.kind, s.state) FROM (
            SELECT kind, state, count(*) AS invoices, sum(line_count) AS lines, sum(total_minor) AS total_minor
            FROM bills WHERE skipped IS NULL GROUP BY kind, state
        ) s) AS sums,
        (SELECT jsonb_agg(l ORDER BY l.total_minor DESC, l.external_id) FROM (
            SELECT a.external_id, b.kind, b.line_count, b.total_minor
            FROM (
                SELECT * FROM bills WHERE skipped IS NULL ORDER BY total_minor DESC, account_id LIMIT :largest
            ) b JOIN accounts a ON a.id = b.account_id
        ) l) AS largest,
        -- Chosen by id, and only these are looked up: in a month that is already billed, all accounts are skipped.
        (SELECT jsonb_agg(p ORDER BY p.skipped) FROM (
            SELECT r.skipped, r.accounts, (
                SELECT jsonb_agg(a.external_id ORDER BY a.external_id)
                FROM (
                    SELECT account_id FROM passed_over o WHERE o.skipped = r.skipped
                    ORDER BY account_id LIMIT :examples
                ) few JOIN accounts a ON a.id = few.account_id
            ) AS examples
            FROM (SELECT skipped, count(*) AS accounts FROM passed_over GROUP BY skipped) r
        ) p) AS skipped,
        (SELECT encode(sha256(convert_to(coalesce(
            string_agg(account_id || ':' || total_minor || ':' || state, ',' ORDER BY account_id), ''
        ), 'UTF8')), 'hex') FROM bills WHERE skipped IS NULL) AS digest
"""  # noqa: S608  # our own constants
