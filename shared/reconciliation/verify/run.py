"""Runs the checks on one snapshot of the database and collects the results."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, text

from shared.gateway.port import ProcessorGateway
from shared.reconciliation.verify.attempts import ATTEMPTS
from shared.reconciliation.verify.billing_events import BILLING_EVENTS
from shared.reconciliation.verify.check import Check, Result, break_of
from shared.reconciliation.verify.processor import PROCESSOR, SUMS, Listed, list_into_table
from shared.reconciliation.verify.progress import PROGRESS
from shared.reconciliation.verify.receipts import RECORDS
from shared.reconciliation.verify.scope import Scope

CHECKS: tuple[Check, ...] = (*RECORDS, *ATTEMPTS, *PROGRESS, *BILLING_EVENTS, *PROCESSOR)

#: Breaks kept per check; all are counted. More than this have one cause, and the first rows show it.
KEEP = 20
#: Rows fetched at a time from the server's cursor.
FETCH = 1_000


@dataclass(frozen=True)
class SumOfCharges:
    """Both sides' totals of one coverage and currency, in minor units."""

    coverage: str
    currency: str
    charges: int
    theirs_minor: int
    ours_minor: int


@dataclass(frozen=True)
class Report:
    """The results, in the order of CHECKS.

    `foreign_charges` are charges at the processor that aren't Duecourse's; `open_findings` wait for an operator.
    Neither is a break.
    """

    results: tuple[Result, ...]
    sums: tuple[SumOfCharges, ...]
    foreign_charges: int
    open_findings: int

    @property
    def is_clean(self) -> bool:
        """Whether every check ran and none found a break."""
        return all(result.holds for result in self.results)


def verify(
    engine: Engine,
    scope: Scope,
    *,
    gateways: Mapping[str, ProcessorGateway] | None,
    coverages: Iterable[str],
    checks: Sequence[Check] = CHECKS,
    keep: int = KEEP,
    on_check: Callable[[Check], None] = lambda _check: None,
    on_charges: Callable[[int], None] = lambda _count: None,
) -> Report:
    """Run the checks within `scope`; with `gateways` None, only on our own records.

    `coverages` are the policy's. All SQL runs in one repeatable-read snapshot, after the processor's charges are
    listed; no transaction is open during the listing. Database errors are raised.
    """
    wanted = [code for code in coverages if scope.coverage in (None, code)]
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        listed = None if gateways is None else list_into_table(connection, scope, gateways, wanted, on_charges)
        connection.commit()
        connection.execution_options(isolation_level="REPEATABLE READ")
        try:
            with connection.begin():
                connection.execute(text("SET TRANSACTION READ ONLY"))
                return _run(connection, scope, listed, checks, keep, on_check)
        finally:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text("DROP TABLE IF EXISTS processor_charges"))


def _run(
    connection: Connection,
    scope: Scope,
    listed: Listed | None,
    checks: Sequence[Check],
    keep: int,
    on_check: Callable[[Check], None],
) -> Report:
    parameters = scope.parameters
    if listed is not None:
        parameters |= {"listed": list(listed.coverages), "listed_at": listed.began_at}
    counted: dict[str, int] = {}
    results = []
    for check in checks:
        if check.needs_processor and listed is None:
            continue
        on_check(check)
        if check.looks_at not in counted:
            counted[check.looks_at] = _count(connection, scope, check.looks_at, parameters)
        results.append(_check(connection, scope, check, parameters, counted[check.looks_at], keep, listed))
    open_findings = connection.execute(text("SELECT count(*) FROM findings WHERE resolved_at IS NULL")).scalar_one()
    return Report(
        results=tuple(results),
        sums=() if listed is None else _sums(connection, parameters),
        foreign_charges=0 if listed is None else listed.foreign,
        open_findings=open_findings,
    )


def _check(
    connection: Connection,
    scope: Scope,
    check: Check,
    parameters: Mapping[str, Any],
    looked_at: int,
    keep: int,
    listed: Listed | None,
) -> Result:
    not_checked = None
    if check.needs_processor and listed is not None and listed.not_listed:
        not_checked = "; ".join(listed.not_listed.values())
    began = time.monotonic()
    broken, breaks = 0, []
    query = text(check.breaks.format_map(scope.relations)).execution_options(stream_results=True, yield_per=FETCH)
    rows = connection.execute(query, _needed(check.breaks, scope, parameters))
    for row in rows.mappings():
        broken += 1
        if broken <= keep:
            breaks.append(break_of(check, dict(row)))
    return Result(check, looked_at, broken, tuple(breaks), time.monotonic() - began, not_checked)


def _count(connection: Connection, scope: Scope, relation: str, parameters: Mapping[str, Any]) -> int:
    query = f"SELECT count(*) FROM {scope.relations[relation]} looked_at"  # noqa: S608  # our own constants
    return int(connection.execute(text(query), _needed(query, scope, parameters)).scalar_one())


def _sums(connection: Connection, parameters: Mapping[str, Any]) -> tuple[SumOfCharges, ...]:
    needed = {name: parameters[name] for name in ("begins_at", "ends_at")}
    return tuple(
        SumOfCharges(row.coverage, row.currency, row.charges, int(row.theirs_minor), int(row.ours_minor))
        for row in connection.execute(text(SUMS), needed)
    )


def _needed(query: str, scope: Scope, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the query uses, once its relations are filled in."""
    full = query.format_map(scope.relations)
    return {name: value for name, value in parameters.items() if f":{name}" in full}
