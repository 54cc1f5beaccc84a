"""`duecourse attempts …`: list attempts with unknown outcome, and look them up now. Never a second charge."""

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from cli.console import operator, out, plain_errors, print_error
from cli.environment import connect_settings
from cli.payment_text import print_explanation
from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.domain.money import format_minor
from shared.domain.refusals import Refused
from shared.explain.explanation import explain_payment, find_payments
from shared.explain.unknown_attempts import UnknownAttempt, unknown_attempts
from shared.gateway.port import GatewayUnavailableError, Missing, ProcessorGateway
from shared.payments.operator.charge import request_look_up
from shared.payments.operator.lost_attempts import (
    Evidence,
    LostAttempt,
    end_unknown_attempt,
    find_unknown_attempt,
)
from shared.runtime import build_runtime

app = typer.Typer(
    name="attempts", help="List attempts with unknown outcome, and look them up.", no_args_is_help=True
)


@app.command("unknown")
def unknown(as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False) -> None:
    """List the attempts with unknown outcome, the oldest first. Exit code 0 even if there are some."""
    with plain_errors():
        runtime = build_runtime(connect_settings(), pool_size=1)
        with runtime.engine.connect() as connection:
            found = unknown_attempts(connection, runtime.machine_now())
    if as_json:
        print(json.dumps([_plain(one) for one in found], indent=1))
    elif not found:
        out().print("No unknown attempts: the outcome of every attempt is known.")
    else:
        out().print(_table(found))


@app.command("look-up")
def look_up(
    wanted: Annotated[str, typer.Argument(metavar="PAYMENT|INVOICE-NUMBER")],
    reason: Annotated[str, typer.Option("--reason", help="Required; stored in the payment's billing events.")],
) -> None:
    """Look up an attempt with unknown outcome at the processor now. Never charges."""
    with plain_errors():
        runtime = build_runtime(connect_settings(), pool_size=1)
        with runtime.engine.connect() as connection:
            payments = find_payments(connection, wanted)
        if len(payments) != 1:
            raise LookupError(
                f"{wanted!r} has {len(payments)} payments: name one by its id or invoice number "
                f"(`duecourse attempts unknown` lists the unknown ones)"
            )
        (payment_id,) = payments
        now, machine_now = runtime.clock.now(), runtime.machine_now()
        answer = in_transaction(
            runtime.engine,
            lambda connection: request_look_up(connection, payment_id, Cause(operator(), now, reason), machine_now),
        )
        if isinstance(answer, Refused):
            print_error(f"not looked up: {answer.reason}. To do: {answer.what_to_do}.")
            raise typer.Exit(1)
        is_enqueued = runtime.enqueue([answer])
        later = "" if is_enqueued else " Redis doesn't answer, so it takes until the next sweep."
        Console(stderr=True).print(f"A worker looks it up now.{later}", highlight=False)
        with runtime.engine.connect() as connection:
            told = explain_payment(connection, runtime.policy, payment_id, now, machine_now)
        print_explanation(out(), told)


@app.command("end")
def end(
    wanted: Annotated[str, typer.Argument(metavar="PAYMENT|INVOICE-NUMBER")],
    reason: Annotated[str, typer.Option("--reason", help="Required: what you found at Stripe; stored.")],
    is_confirmed: Annotated[bool, typer.Option("--yes", help="End it; without this, only show it.")] = False,
) -> None:
    """End an unknown attempt whose PaymentIntent doesn't exist at Stripe. Asks Stripe first; charges nothing."""
    with plain_errors():
        runtime = build_runtime(connect_settings(), pool_size=1)
        with runtime.engine.connect() as connection:
            payments = find_payments(connection, wanted)
            if len(payments) != 1:
                raise LookupError(f"{wanted!r} has {len(payments)} payments: name one by its id or invoice number")
            seen = find_unknown_attempt(connection, payments[0])
        if seen is None:
            raise LookupError("this payment has no attempt with an unknown outcome; nothing is to be ended")
        gateway = runtime.gateways.get(seen.coverage)
        if gateway is None:
            raise LookupError(f"STRIPE_API_KEYS has no key for coverage {seen.coverage}; add it")
        evidence = _ask_stripe(gateway, seen)
        out().print(f"attempt {seen.number}, {seen.stripe_payment_intent_id}: {evidence}", markup=False)
        if evidence.is_lost and not is_confirmed:
            out().print(
                "Nothing is changed yet. Run it again with --yes: the payment is held until you release it."
            )
            return
        cause = Cause(operator(), runtime.clock.now(), reason, attempt_id=seen.attempt_id)
        answer = in_transaction(
            runtime.engine, lambda connection: end_unknown_attempt(connection, runtime, seen, evidence, cause)
        )
    if isinstance(answer, Refused):
        print_error(f"not ended: {answer.reason}. To do: {answer.what_to_do}.")
        raise typer.Exit(1)
    out().print("Ended as not sent. The payment is held: release it when you are sure that no money moved.")


def _ask_stripe(gateway: ProcessorGateway, seen: LostAttempt) -> Evidence:
    """Ask whether the PaymentIntent exists and, if it doesn't, whether the key sees its customer or card."""
    answer = gateway.retrieve_payment_intent(seen.stripe_payment_intent_id)
    if answer.payment_intent is not None:
        return Evidence(is_lost=False, words=f"Stripe has it, {answer.payment_intent.status}")
    if answer.http_status != 404:
        return Evidence(is_lost=False, words=f"Stripe gave no usable answer ({answer.reason})")
    card = seen.stripe_payment_method_id or "pm_none"  # a cancellation charges no card; the customer tells
    try:
        missing = gateway.find_missing(seen.stripe_customer_id, card)
    except GatewayUnavailableError as error:
        return Evidence(is_lost=False, words=f"Stripe gave no usable answer ({error})")
    if missing is Missing.BOTH_UNKNOWN:
        return Evidence(
            is_lost=False, words="Stripe knows neither it nor its customer: the key is probably another account's"
        )
    return Evidence(is_lost=True, words="Stripe knows its customer or card, but not this PaymentIntent")


def _table(found: list[UnknownAttempt]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("unknown for", "account", "invoice", "amount", "look-ups", "next look-up (UTC)", "payment"):
        table.add_column(
            name, no_wrap=True, justify="right" if name in ("unknown for", "amount", "look-ups") else "left"
        )
    for one in found:
        table.add_row(
            show_age(one.age),
            one.account_external_id,
            one.invoice_number or "",
            format_minor(one.amount_minor, one.currency),
            str(one.look_ups),
            f"{one.look_up_at:%Y-%m-%d %H:%M:%S}" if one.look_up_at else "now",
            str(one.payment_id),
        )
    return table


def show_age(age: timedelta) -> str:
    """Write an age with its two largest units: `3 d 4 h`, `12 min 5 s`."""
    left = int(age.total_seconds())
    parts: list[str] = []
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def _plain(one: UnknownAttempt) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, timedelta):
            return int(value.total_seconds())
        if isinstance(value, datetime):
            return value.isoformat()
        return str(value) if isinstance(value, UUID) else value

    return {("age_s" if name == "age" else name): plain(value) for name, value in asdict(one).items()}
