"""The explanation of a payment as text for a terminal: readable at three in the morning, and in a pipe."""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from shared.domain.money import format_minor
from shared.explain.explanation import AttemptMade, AttemptNotMade, CardShown, Entry, Explanation, Moved, Told
from shared.explain.next_step import Owner, show_instant

#: Calm where nothing is to be done; loud where money or a person waits.
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
STYLE_OF_TURN = {
    Owner.OPERATOR: "bold red",
    Owner.CUSTOMER: "magenta",
    Owner.DUECOURSE: "cyan",
    Owner.NOBODY: "green",
}
#: Columns that a move's trail shows and that say nothing to a person.
_NOT_TOLD = frozenset({"state", "paid_at", "first_declined_at", "not_sent_count", "run_id", "requested_by"})


def print_explanation(console: Console, told: Explanation) -> None:
    """Print one payment: who owes what, what comes next, what happened."""
    zone = ZoneInfo(told.time_zone)
    console.print(_header(told, zone))
    console.print()
    console.print(Text("What comes next", style="bold"))
    console.print(Padding(_next(told), (0, 0, 0, 2)))
    if told.findings:
        console.print()
        console.print(Text("For a person to look at", style="bold red"))
        for finding in told.findings:
            line = f"{finding.kind}, found {show_instant(finding.found_at, zone)}: {_pairs(finding.details)}"
            console.print(Padding(Text(line), (0, 0, 0, 2)))
    console.print()
    console.print(Text("What happened", style="bold"))
    console.print(Padding(_timeline(told, zone), (0, 0, 0, 2)))


def list_of_payments(payments: Iterable[Explanation]) -> Table:
    """Several payments, a line each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("payment", no_wrap=True)
    table.add_column("invoice", no_wrap=True)
    table.add_column("coverage")
    table.add_column("amount", justify="right", no_wrap=True)
    table.add_column("state")
    table.add_column("attempts", justify="right")
    table.add_column("what comes next", ratio=1)
    for told in payments:
        table.add_row(
            str(told.payment_id),
            told.invoice_number or "-",
            told.coverage,
            format_minor(told.amount_minor, told.currency),
            _state(told.state),
            str(told.attempt_count),
            Text(told.next.sentence),
        )
    return table


def _header(told: Explanation, zone: ZoneInfo) -> RenderableType:
    since = f" since {show_instant(told.state_since_at, zone)}" if told.state_since_at else ""
    cause = f": {told.state_reason}" if told.state_reason else ""
    invoice = f"{told.invoice_number} for {told.period:%Y-%m}" if told.period else "none"
    account = f"{told.account_external_id} ({told.account_name}), standing {told.standing}"
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in (
        ("payment", Text(str(told.payment_id), style="bold")),
        ("invoice", Text(f"{invoice}, coverage {told.coverage} ({told.time_zone}), due on {told.due_on}")),
        ("account", Text(account + (", suspended by provisioning" if told.is_suspended else ""))),
        ("amount", Text(format_minor(told.amount_minor, told.currency), style="bold")),
        ("state", Text.assemble(_state(told.state), f"{since}{cause}")),
        ("card", Text(_card_in_use(told))),
        ("tried", Text(f"{_times(told.attempt_count, 'attempt')}, {_times(told.decline_count, 'decline')}")),
    ):
        grid.add_row(name, value)
    return grid


def _next(told: Explanation) -> RenderableType:
    lines = [Text(told.next.sentence, style="bold")]
    turn = Text.assemble("Whose turn: ", (told.next.who, STYLE_OF_TURN[told.next.who]))
    if told.next.what_to_do:
        turn.append(f". To do: {told.next.what_to_do}")
    lines.append(turn)
    if told.outlook:
        lines.append(Text(f"At stake: {told.outlook}."))
    return Group(*lines)


def _timeline(told: Explanation, zone: ZoneInfo) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column()
    for entry in told.timeline:
        grid.add_row(show_instant(entry.at, zone), _entry(entry, zone))
    if not told.timeline:
        grid.add_row("", "nothing is written down")
    return grid


def _entry(entry: Entry, zone: ZoneInfo) -> RenderableType:
    match entry:
        case AttemptMade():
            return _attempt(entry, zone)
        case AttemptNotMade():
            return _not_made(entry, zone)
        case Moved():
            return _moved(entry, zone)
        case Told():
            return _told(entry)


def _attempt(entry: AttemptMade, zone: ZoneInfo) -> RenderableType:
    kind = "" if entry.kind == "charge" else f" to {entry.kind}"
    who = f" by {entry.requested_by}" if entry.requested_by else ""
    first = Text.assemble(
        (f"Attempt {entry.number}{kind}", "bold"),
        " → ",
        _state(entry.state),
        f", {_named(entry.card)}, trigger {entry.trigger}{who}, {entry.lane} lane",
    )
    lines = [first, Text(entry.meaning)]
    codes = [f"{name} {value}" for name, value in entry.codes.items() if name != "error_type"]
    ids = [entry.stripe_request_id, entry.stripe_charge_id, entry.stripe_payment_intent_id]
    status = [f"HTTP {entry.http_status}"] if entry.http_status else []
    shown = [*codes, *status, *filter(None, ids), f"PaymentIntent no. {entry.ordinal}"]
    lines.append(Text(" · ".join(shown), style="dim"))
    if len(entry.results) > 1 or any(result.at != entry.at for result in entry.results):
        for result in entry.results:
            said = f"{show_instant(result.at, zone)} {result.state}, by {result.actor}: {result.reason}"
            lines.append(Text(said, style="dim"))
    return Group(*lines)


def _not_made(entry: AttemptNotMade, zone: ZoneInfo) -> Text:
    when = _when(entry.next_attempt_at, entry.next_attempt_on, zone)
    text = Text.assemble(("Not asked", "bold"), f": {entry.reason}")
    if entry.moved_to:
        text.append(" → ").append(_state(entry.moved_to))
    if when:
        text.append(f"; next {when}")
    if entry.asked_because:
        text.append(f"; {entry.actor} wanted it because: {entry.asked_because}")
    elif entry.trigger:
        text.append(f" (trigger {entry.trigger})", style="dim")
    return text


def _moved(entry: Moved, zone: ZoneInfo) -> Text:
    before, after = entry.before.get("state", "?"), entry.after.get("state", "?")
    text = (
        Text("→ ").append(_state(after)) if before != after else Text("rescheduled, still ").append(_state(after))
    )
    text.append(f": {entry.reason}" if entry.reason else "")
    changes = []
    for name, value in entry.after.items():
        if name in _NOT_TOLD or value == entry.before.get(name):
            continue
        changes.append(f"{_words(name)} {_value(name, value, zone)}")
    text.append(f" [{', '.join(changes)}]" if changes else "", style="dim")
    return text.append(f" by {entry.actor}", style="dim")


def _told(entry: Told) -> Text:
    if entry.type == "invoice_issued":
        amount = format_minor(entry.data.get("amount_minor", 0), entry.data.get("currency", "USD"))
        lines = entry.data.get("lines")
        return Text(f"Invoice {entry.data.get('number')} issued: {_times(lines or 0, 'line')}, {amount}")
    if entry.type == "stripe_event_applied":
        return Text(f"Stripe told: {entry.data.get('type')}, {entry.reason}", style="dim")
    text = Text(_words(entry.type).capitalize())
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
        return "an operator" if moment.year == 9999 else show_instant(moment, zone)
    return str(value)


def _card_in_use(told: Explanation) -> str:
    if told.card is None:
        return "none is registered" if told.pays_by == "card" else f"pays by {_words(told.pays_by)}"
    shown = f"{_named(told.card)}, expires {told.card.exp_month:02}/{told.card.exp_year}"
    if told.card.block_reason:
        shown += f"; must not be asked again: {told.card.block_reason}"
    return shown


def _named(card: CardShown | None) -> str:
    if card is None:
        return "no card"
    return f"{card.brand} •••• {card.last4}" + (" (detached since)" if card.is_detached else "")


def _state(state: str) -> Text:
    return Text(state, style=STYLE_OF_STATE.get(state, ""))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _times(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _pairs(details: Any) -> str:
    return ", ".join(f"{_words(name)} {value}" for name, value in details.items() if value is not None)
