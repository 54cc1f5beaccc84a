"""`duecourse findings …`: list and resolve findings, which wait for an operator."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy import Row, func, select

from cli.console import clock_of, operator, out, plain_errors, print_error
from cli.environment import connect_settings
from shared.db.billing_events import Cause
from shared.db.session import in_transaction, make_engine
from shared.db.tables.system import findings
from shared.explain.descriptions import FINDING_DESCRIPTIONS, details_of_finding
from shared.payments.receipts import resolve_finding_by_id

app = typer.Typer(name="findings", help="List and resolve findings.", no_args_is_help=True)


@app.callback()
def _findings() -> None:
    """List and resolve findings."""


@app.command("list")
def list_findings(
    everything: Annotated[bool, typer.Option("--all", help="Include resolved findings.")] = False,
    kind: Annotated[str | None, typer.Option("--kind", help="One kind only.")] = None,
    coverage: Annotated[str | None, typer.Option("--coverage", help="One coverage only.")] = None,
    last: Annotated[int, typer.Option("--last", min=1, help="How many of the latest to list.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """List findings, the latest first, with what each kind means and what to do. Exit code 0 in any case."""
    with plain_errors():
        query = select(findings)
        for column, value in ((findings.c.kind, kind), (findings.c.coverage, coverage)):
            query = query if value is None else query.where(column == value)
        if not everything:
            query = query.where(findings.c.resolved_at.is_(None))
        engine = make_engine(connect_settings(), pool_size=1)
        with engine.connect() as connection:
            total = connection.scalar(select(func.count()).select_from(query.subquery())) or 0
            found = connection.execute(query.order_by(findings.c.found_at.desc(), findings.c.id).limit(last)).all()
    if as_json:
        print(json.dumps([_as_json(finding) for finding in found], indent=1, ensure_ascii=False))
        return
    if not found:
        out().print("No findings: nothing waits for an operator.")
        return
    _print(out(), found)
    if total > len(found):
        out().print(f"{total - len(found):,} more; use --last to list more")


@app.command("resolve")
def resolve(
    finding: Annotated[UUID, typer.Argument(help="The finding's id, as `findings list` shows it.")],
    reason: Annotated[str, typer.Option("--reason", help="Required: what you found and did; stored.")],
) -> None:
    """Resolve a finding. It is opened again only if its facts change."""
    with plain_errors():
        settings = connect_settings()
        cause = Cause(operator(), clock_of(settings).now(), reason.strip())
        is_resolved = in_transaction(
            make_engine(settings, pool_size=1),
            lambda connection: resolve_finding_by_id(connection, finding, cause),
        )
    if not is_resolved:
        print_error(f"finding {finding} was resolved already; `duecourse findings list --all` shows by whom")
        raise typer.Exit(1)
    print(f"finding {finding}: resolved by {cause.actor}")


def _print(console: Console, found: Iterable[Row[Any]]) -> None:
    """Each kind once, with its meaning; under it what was found."""
    by_kind: dict[str, list[Row[Any]]] = {}
    for finding in found:
        by_kind.setdefault(finding.kind, []).append(finding)
    for number, (kind, rows) in enumerate(by_kind.items()):
        if number:
            console.print()
        console.print(Text(f"{kind} ({len(rows)})", style="bold"))
        description = FINDING_DESCRIPTIONS.get(kind)
        if description is not None:
            console.print(Text(f"  It means: {description.meaning}."))
            console.print(Text(f"  To do: {description.what_to_do}.", style="dim"))
        for finding in rows:
            console.print(Text(f"  {_line(finding)}"))


def _line(finding: Row[Any]) -> str:
    whose = f" payment {finding.payment_id}" if finding.payment_id else ""
    line = f"{finding.id}  {_minute(finding.found_at)} {finding.coverage}{whose}: {_shown(finding.details)}"
    if finding.resolved_at is None:
        return line
    return f"{line}; resolved {_minute(finding.resolved_at)} by {finding.resolved_by}: {finding.resolution}"


def _shown(details: Mapping[str, Any]) -> str:
    return ", ".join(map(str, details_of_finding(details)))


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _as_json(finding: Row[Any]) -> dict[str, Any]:
    row = {
        name: value.isoformat() if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value
        for name, value in finding._asdict().items()
    }
    description = FINDING_DESCRIPTIONS.get(finding.kind)
    return {
        **row,
        "means": description.meaning if description else None,
        "to_do": description.what_to_do if description else None,
    }
