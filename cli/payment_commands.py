"""`duecourse payment …`: a payment's timeline and next step, charging it now, and releasing its hold."""

import json
import time
from dataclasses import asdict
from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from sqlalchemy import Connection, func, select

from cli.console import operator, out, plain_errors, print_error
from cli.environment import connect_settings
from cli.payment_text import payments_table, print_explanation
from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.db.tables.payments import payment_attempts
from shared.domain.calendar import waits_for_operator
from shared.domain.money import format_minor
from shared.domain.refusals import Refused
from shared.domain.states import OPEN_ATTEMPT, UNPAID
from shared.explain.explanation import Explanation, explain_payment, find_payments
from shared.operations.audit_log import AuditAction, record_decision
from shared.payments.operator.charge import WouldCharge, preview_charge, request_charge
from shared.payments.operator.hold import Released, WouldRelease, preview_release, release_payment
from shared.runtime import Runtime, build_runtime

app = typer.Typer(
    name="payment", help="Explain a payment, charge it now, or release its hold.", no_args_is_help=True
)

#: A charge takes some 2 s and gives up after 90; after that, use `payment show`.
WAIT_S = 100.0
POLL_S = 0.1
#: Payments of one account that are listed; of more, name one.
LISTED = 100
_ONE_IN_FULL = "\nOne of them in full: duecourse payment show PAYMENT"

Wanted = Annotated[
    str,
    typer.Argument(metavar="PAYMENT|INVOICE-NUMBER|ACCOUNT", help="What to explain."),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON on standard output.")]


@app.command("show")
def show(wanted: Wanted, as_json: AsJson = False) -> None:
    """Explain a payment: every attempt, every skipped attempt with its reason, and the next step.

    Of an account without open payments the latest is explained; otherwise its payments are listed.
    """
    with plain_errors():
        runtime = build_runtime(connect_settings(), pool_size=1)
        told = _explain(runtime, wanted)
    if as_json:
        print(json.dumps([_plain(asdict(one)) for one in told], indent=1, ensure_ascii=False))
        return
    console = out()
    if not told:
        console.print(f"account {wanted} has no payments yet", markup=False)
    elif len(told) == 1 or not any(one.state in UNPAID for one in told):
        latest, *earlier = told
        print_explanation(console, latest)
        if earlier:
            console.print("\nEarlier payments", style="bold")
            console.print(payments_table(earlier))
            console.print(_ONE_IN_FULL, style="dim")
    else:
        console.print(payments_table(told))
        console.print(_ONE_IN_FULL, style="dim")


@app.command("charge")
def charge(
    wanted: Annotated[str, typer.Argument(metavar="PAYMENT|INVOICE-NUMBER")],
    reason: Annotated[str, typer.Option("--reason", help="Required; stored in the payment's billing events.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Charge without asking for confirmation.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the outcome and show it.")] = False,
) -> None:
    """Charge a payment now, after a preview and a confirmation. Releases a hold."""
    with plain_errors():
        if not reason.strip():
            raise LookupError("--reason is empty; a reason is required and stored in the payment's billing events")
        runtime = build_runtime(connect_settings(), pool_size=1)
        payment_id = _only_one(runtime, wanted)
        with runtime.engine.connect() as connection:
            preview = preview_charge(connection, payment_id, runtime.clock.now(), runtime.machine_now())
        if isinstance(preview, WouldCharge):
            _ask(preview, yes)
        before = _attempt_count(runtime, payment_id)
        answer = in_transaction(
            runtime.engine,
            lambda connection: request_charge(
                connection, payment_id, Cause(operator(), runtime.clock.now(), reason), runtime.machine_now()
            ),
        )
        if isinstance(answer, Refused):
            print_error(f"not charged: {answer.reason}. To do: {answer.what_to_do}.")
            raise typer.Exit(1)
        is_enqueued = runtime.enqueue([answer])
        later = "" if is_enqueued else " Redis doesn't answer, so it takes until the next sweep."
        Console(stderr=True).print(f"Due now, in the interactive queue.{later}", highlight=False)
        if not wait:
            out().print(f"duecourse payment show {payment_id}")
            return
        is_answered = _wait_for_answer(runtime, payment_id, before)
        print_explanation(out(), _explain(runtime, str(payment_id))[0])
    if not is_answered:
        print_error(f"no answer within {WAIT_S:g} s; it stays due. `duecourse doctor` shows whether workers run.")
        raise typer.Exit(1)


@app.command("release")
def release(
    wanted: Annotated[str, typer.Argument(metavar="PAYMENT|INVOICE-NUMBER")],
    reason: Annotated[str, typer.Option("--reason", help="Required; stored in the payment's billing events.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Release without asking for confirmation.")] = False,
) -> None:
    """Release a payment's hold, after a preview and a confirmation: an operator's, or one after a dispute."""
    with plain_errors():
        runtime = build_runtime(connect_settings(), pool_size=1)
        payment_id = _only_one(runtime, wanted)
        with runtime.engine.connect() as connection:
            preview = preview_release(connection, payment_id, runtime.clock.now())
        if isinstance(preview, WouldRelease):
            _show_release(preview)
            _confirm("Release now?", yes)
        cause = Cause(operator(), runtime.clock.now(), reason)

        def work(connection: Connection) -> Released | Refused:
            answer = release_payment(connection, payment_id, cause)
            refused = answer if isinstance(answer, Refused) else None
            subject = ("payment", str(payment_id))
            record_decision(connection, AuditAction.PAYMENT_RELEASE, subject, cause, refused, _audited(preview))
            return answer

        answer = in_transaction(runtime.engine, work)
    if isinstance(answer, Refused):
        print_error(f"not released: {answer.reason}. To do: {answer.what_to_do}.")
        raise typer.Exit(1)
    if answer.job is not None:
        runtime.enqueue([answer.job])
    out().print(f"The hold is released.\nduecourse payment show {payment_id}")


def _show_release(preview: WouldRelease) -> None:
    console = Console(stderr=True, highlight=False)
    amount = format_minor(preview.amount_minor, preview.currency)
    until = f"{preview.held_until:%Y-%m-%d %H:%M} UTC"
    if waits_for_operator(preview.held_until):
        until = "an operator releases it"
    console.print(f"{amount}, {preview.state}, held until {until}: {preview.reason}", markup=False)
    then = "is charged at once" if preview.is_charged_at_once else "waits again for what it waited for before"
    console.print(f"Once released, it {then}.", style="bold", markup=False)


def _audited(preview: WouldRelease | Refused) -> dict[str, str | None]:
    if isinstance(preview, Refused):
        return {}
    return {"held_until": preview.held_until.isoformat(), "reason": preview.reason}


def _explain(runtime: Runtime, wanted: str) -> list[Explanation]:
    now, machine_now = runtime.clock.now(), runtime.machine_now()
    with runtime.engine.connect() as connection:
        return [
            explain_payment(connection, runtime.policy, payment_id, now, machine_now)
            for payment_id in find_payments(connection, wanted, LISTED)
        ]


def _only_one(runtime: Runtime, wanted: str) -> UUID:
    with runtime.engine.connect() as connection:
        found = find_payments(connection, wanted)
    if len(found) != 1:
        raise LookupError(
            f"{wanted!r} has {len(found)} payments: name one by its id or invoice number "
            f"(`duecourse payment show {wanted}` lists them)"
        )
    return found[0]


def _ask(preview: WouldCharge, yes: bool) -> None:
    console = Console(stderr=True, highlight=False)
    amount = format_minor(preview.amount_minor, preview.currency)
    card = f"{preview.card_brand} ending in {preview.card_last4}"
    console.print(f"Charges {amount} to {card}.", style="bold", markup=False)
    for warning in preview.warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False)
    _confirm("Charge now?", yes)


def _confirm(question: str, yes: bool) -> None:
    if not yes and not typer.confirm(question, err=True):
        print_error("nothing was changed")
        raise typer.Exit(1)


def _attempt_count(runtime: Runtime, payment_id: UUID) -> int:
    with runtime.engine.connect() as connection:
        return connection.scalar(_closed_attempts(payment_id)) or 0


def _wait_for_answer(runtime: Runtime, payment_id: UUID, before: int) -> bool:
    deadline = time.monotonic() + WAIT_S
    with Console(stderr=True).status("waiting for the processor's answer"):
        while time.monotonic() < deadline:
            if _attempt_count(runtime, payment_id) > before:
                return True
            time.sleep(POLL_S)
    return False


def _closed_attempts(payment_id: UUID) -> Any:
    return select(func.count()).where(
        payment_attempts.c.payment_id == payment_id, payment_attempts.c.state.not_in(OPEN_ATTEMPT)
    )


def _plain(value: Any) -> Any:
    """What JSON can hold: instants as ISO 8601 in UTC, ids as text."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return (
        value.isoformat()
        if isinstance(value, datetime | date)
        else str(value)
        if isinstance(value, UUID)
        else value
    )
