"""`duecourse cards …`: list the cards that must not be charged, and lift a block that was set in error."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from cli.console import clock_of, counted, operator, out, plain_errors, print_error
from cli.environment import connect_settings
from shared.accounts.lifted_blocks import BlockedCard, blocked_cards
from shared.db.billing_events import Cause
from shared.db.session import in_transaction, make_engine
from shared.domain.money import format_minor
from shared.domain.refusals import Refused
from shared.payments.operator.unblocked_cards import Behind, payments_behind, unblock_card

app = typer.Typer(name="cards", help="Cards that must not be charged.", no_args_is_help=True)


@app.command("blocked")
def blocked(
    coverage: Annotated[str | None, typer.Option("--coverage", help="One coverage only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """List the cards that must not be charged, with the reason. Exit code 0 in any case."""
    with plain_errors(), make_engine(connect_settings(), pool_size=1).connect() as connection:
        found = blocked_cards(connection, coverage)
    if as_json:
        print(json.dumps([_plain(one) for one in found], indent=1, ensure_ascii=False))
    elif not found:
        out().print("No card is blocked.")
    for one in [] if as_json else found:
        out().print(_line(one), markup=False)


@app.command("unblock")
def unblock(
    coverage: Annotated[str, typer.Argument(help="The card's coverage.")],
    fingerprint: Annotated[str, typer.Argument(help="As `cards blocked` shows it.")],
    reason: Annotated[str, typer.Option("--reason", help="Required: why the block is wrong; stored.")],
    is_confirmed: Annotated[bool, typer.Option("--yes", help="Lift it; without this, only show it.")] = False,
) -> None:
    """Lift a card's block, after showing it, and charge what waited for that.

    The next such decline blocks the card again.
    """
    with plain_errors():
        settings = connect_settings()
        engine = make_engine(settings, pool_size=1)
        with engine.connect() as connection:
            found = blocked_cards(connection, coverage, fingerprint)
            behind = payments_behind(connection, coverage, fingerprint, clock_of(settings).now())
        seen = found[0] if found else None
        if seen is not None:
            out().print(_line(seen), markup=False)
            out().print(_charged(behind), markup=False)
        if seen is not None and not is_confirmed:
            out().print("Nothing is changed yet. Run it again with --yes to lift this block.")
            return
        cause = Cause(operator(), clock_of(settings).now(), reason)
        answer = in_transaction(
            engine, lambda connection: unblock_card(connection, coverage, fingerprint, seen, cause)
        )
    if isinstance(answer, Refused):
        print_error(f"not lifted: {answer.reason}. To do: {answer.what_to_do}.")
        raise typer.Exit(1)
    out().print(f"The block is lifted. Due now, and enqueued within seconds: {counted(len(answer), 'payment')}.")


def _charged(behind: Sequence[Behind]) -> str:
    if not behind:
        return "No payment waits for this."
    sums: Counter[str] = Counter()
    for each in behind:
        sums[each.currency] += each.amount_minor
    money = ", ".join(format_minor(minor, currency) for currency, minor in sorted(sums.items()))
    return f"Charged at once: {counted(len(behind), 'unpaid payment')}, {money}."


def _line(one: BlockedCard) -> str:
    whose = f"account {', '.join(one.accounts)}" if one.accounts else "no account"
    return (
        f"{one.coverage} {one.fingerprint}  {one.shown_as}, {whose}; "
        f"since {one.blocked_at:%Y-%m-%d %H:%M} UTC: {one.reason}"
    )


def _plain(one: BlockedCard) -> dict[str, object]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(one).items()
    }
