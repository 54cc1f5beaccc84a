"""The explanation of a payment as text for a terminal: readable on a screen and in a pipe."""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from shared.domain.calendar import waits_for_operator
from shared.domain.money import format_minor
from shared.explain.explanation import (
    Attempt,
    CardSummary,
    Entry,
    Explanation,
    OtherEvent,
    SkippedAttempt,
    StateChange,
    shown_changes,
)
from shared.explain.next_step import Owner, show_instant

#: Muted where there is nothing to do; bold where money or an operator waits.
STYLE_OF_STATE = {
    "paid": "green",
    "succeeded": "green",
    "due": "cyan",
    "started": "cyan",
    "retry_scheduled": "yellow",
    "declined": "yellow",
    "not_sent": "yellow",
    "canceled": "yellow",
    "unknown": "bold red",
    "needs_payment_method": "magenta",
    "needs_authentication": "magenta",
    "authentication_needed": "magenta",
    "needs_support": "bold red",
    "awaiting_transfer": "blue",
}
STYLE_OF_OWNER = {
    Owner.OPERATOR: "bold red",
    Owner.CUSTOMER: "magenta",
    Owner.DUECOURSE: "cyan",
    Owner.NOBODY: "green",
}


def print_explanation(console: Console, explanation: Explanation) -> None:
    """Print one payment: its facts, its next step and its timeline."""
    zone = ZoneInfo(explanation.time_zone)
    console.print(_header(explanation, zone))
    console.print()
    console.print(Text("Next step", style="bold"))
    console.print(Padding(_next_step(explanation), (0, 0, 0, 2)))
    if explanation.findings:
        console.print()
        console.print(Text("Open findings", style="bold red"))
        for finding in explanation.findings:
            line = f"{finding.kind}, found {show_instant(finding.found_at, zone)}: {_pairs(finding.details)}"
            console.print(Padding(Text(line), (0, 0, 0, 2)))
    console.print()
    console.print(Text("Timeline", style="bold"))
    console.print(Padding(_timeline(explanation, zone), (0, 0, 0, 2)))


def payments_table(payments: Iterable[Explanation]) -> Table:
    """Several payments, one row each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("payment", no_wrap=True)
    table.add_column("invoice", no_wrap=True)
    table.add_column("coverage")
    table.add_column("amount", justify="right", no_wrap=True)
    table.add_column("state")
    table.add_column("attempts", justify="right")
    table.add_column("next step", ratio=1)
    for explanation in payments:
        table.add_row(
            str(explanation.payment_id),
            explanation.invoice_number or "-",
            explanation.coverage,
            format_minor(explanation.amount_minor, explanation.currency),
            _state(explanation.state),
            str(explanation.attempt_count),
            Text(explanation.next_step.sentence),
        )
    return table


def _header(explanation: Explanation, zone: ZoneInfo) -> RenderableType:
    since = f" since {show_instant(explanation.state_since_at, zone)}" if explanation.state_since_at else ""
    cause = f": {explanation.state_reason}" if explanation.state_reason else ""
    invoice = f"{explanation.invoice_number} for {explanation.period:%Y-%m}" if explanation.period else "none"
    account = f"{explanation.account_external_id} ({explanation.account_name}), standing {explanation.standing}"
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in (
        ("payment", Text(str(explanation.payment_id), style="bold")),
        (
            "invoice",
            Text(
                f"{invoice}, coverage {explanation.coverage} ({explanation.time_zone}), due on {explanation.due_on}"
            ),
        ),
        ("account", Text(account + (", suspended by provisioning" if explanation.is_suspended else ""))),
        ("amount", Text(format_minor(explanation.amount_minor, explanation.currency), style="bold")),
        ("state", Text.assemble(_state(explanation.state), f"{since}{cause}")),
        ("card", Text(_current_card(explanation))),
        (
            "attempts",
            Text(f"{_times(explanation.attempt_count, 'attempt')}, {_times(explanation.decline_count, 'decline')}"),
        ),
    ):
        grid.add_row(name, value)
    return grid


def _next_step(explanation: Explanation) -> RenderableType:
    step = explanation.next_step
    lines = [Text(step.sentence, style="bold")]
    owner = Text.assemble("Owner: ", (step.owner, STYLE_OF_OWNER[step.owner]))
    if step.what_to_do:
        owner.append(f". To do: {step.what_to_do}")
    lines.append(owner)
    if step.impact:
        lines.append(Text(f"Impact: {step.impact}."))
    return Group(*lines)


def _timeline(explanation: Explanation, zone: ZoneInfo) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column()
    for entry in explanation.timeline:
        grid.add_row(show_instant(entry.at, zone), _entry(entry, zone))
    if not explanation.timeline:
        grid.add_row("", "no events")
    return grid


def _entry(entry: Entry, zone: ZoneInfo) -> RenderableType:
    match entry:
        case Attempt():
            return _attempt(entry, zone)
        case SkippedAttempt():
            return _skipped_attempt(entry, zone)
        case StateChange():
            return _state_change(entry, zone)
        case OtherEvent():
            return _other_event(entry)


def _attempt(entry: Attempt, zone: ZoneInfo) -> RenderableType:
    kind = "" if entry.kind == "charge" else f" to {entry.kind}"
    who = f" by {entry.requested_by}" if entry.requested_by else ""
    first = Text.assemble(
        (f"Attempt {entry.number}{kind}", "bold"),
        " → ",
        _state(entry.state),
        f", {_named(entry.card)}, trigger {_spaced(entry.trigger)}{who}",
    )
    lines = [first, Text(entry.meaning)]
    codes = [f"{name} {value}" for name, value in entry.codes.items() if name != "error_type"]
    ids = [entry.stripe_request_id, entry.stripe_charge_id, entry.stripe_payment_intent_id]
    status = [f"HTTP {entry.http_status}"] if entry.http_status else []
    shown = [*codes, *status, *filter(None, ids), f"PaymentIntent no. {entry.ordinal}"]
    lines.append(Text(" · ".join(shown), style="dim"))
    if len(entry.results) > 1 or any(result.at != entry.at for result in entry.results):
        for result in entry.results:
            line = f"{show_instant(result.at, zone)} {result.state}, by {result.actor}: {result.reason}"
            lines.append(Text(line, style="dim"))
    return Group(*lines)


def _skipped_attempt(entry: SkippedAttempt, zone: ZoneInfo) -> Text:
    when = _when(entry.next_attempt_at, entry.next_attempt_on, zone)
    text = Text.assemble(("Not attempted", "bold"), f": {entry.reason}")
    if entry.new_state:
        text.append(" → ").append(_state(entry.new_state))
    if when:
        text.append(f"; next {when}")
    if entry.request_reason:
        text.append(f"; requested by {entry.actor}: {entry.request_reason}")
    elif entry.trigger:
        text.append(f" (trigger {_spaced(entry.trigger)})", style="dim")
    return text


def _state_change(entry: StateChange, zone: ZoneInfo) -> Text:
    before, after = entry.before.get("state", "?"), entry.after.get("state", "?")
    text = (
        Text("→ ").append(_state(after)) if before != after else Text("rescheduled, still ").append(_state(after))
    )
    text.append(f": {entry.reason}" if entry.reason else "")
    changes = [f"{_spaced(name)} {_value(name, value, zone)}" for name, value in shown_changes(entry).items()]
    text.append(f" [{', '.join(changes)}]" if changes else "", style="dim")
    return text.append(f" by {entry.actor}", style="dim")


def _other_event(entry: OtherEvent) -> Text:
    if entry.type == "invoice_issued":
        amount = format_minor(entry.data.get("amount_minor", 0), entry.data.get("currency", "USD"))
        lines = entry.data.get("lines")
        return Text(f"Invoice {entry.data.get('number')} issued: {_times(lines or 0, 'line')}, {amount}")
    if entry.type == "stripe_event_applied":
        about = "" if entry.attempt_number is None else f" about attempt {entry.attempt_number}"
        return Text(f"Stripe event {entry.data.get('type')}{about}: {entry.reason}", style="dim")
    text = Text(_spaced(entry.type).capitalize())
    text.append(f": {entry.reason}" if entry.reason else "")
    if entry.data:
        text.append(f" [{_pairs(entry.data)}]", style="dim")
    return text.append(f" by {entry.actor}", style="dim")


def _when(at: datetime | None, on: date | None, zone: ZoneInfo) -> str:
    if at is not None:
        return show_instant(at, zone)
    return str(on) if on is not None else ""


def _value(name: str, value: Any, zone: ZoneInfo) -> str:
    if value is None:
        return "none"
    if name.endswith(("_at", "_until")):
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            return str(value)
        return "an operator" if waits_for_operator(moment) else show_instant(moment, zone)
    return _spaced(str(value)) if name == "trigger" else str(value)


def _current_card(explanation: Explanation) -> str:
    if explanation.card is None:
        return "none registered" if explanation.pays_by == "card" else f"pays by {_spaced(explanation.pays_by)}"
    shown = f"{_named(explanation.card)}, expires {explanation.card.exp_month:02}/{explanation.card.exp_year}"
    if explanation.card.block_reason:
        shown += f"; must not be charged again: {explanation.card.block_reason}"
    return shown


def _named(card: CardSummary | None) -> str:
    if card is None:
        return "no card"
    return f"{card.brand} •••• {card.last4}" + (" (detached)" if card.is_detached else "")


def _state(state: str) -> Text:
    return Text(state, style=STYLE_OF_STATE.get(state, ""))


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _times(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _pairs(details: Any) -> str:
    return ", ".join(f"{_spaced(name)} {value}" for name, value in details.items() if value is not None)
