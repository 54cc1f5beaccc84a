"""`duecourse stripe-accounts …`: which Stripe account each coverage uses, and the change to another one."""

from typing import Annotated

import typer

from cli.console import clock_of, operator, out, plain_errors, print_error
from cli.environment import connect_settings
from shared.clock import machine_now
from shared.db.billing_events import Cause
from shared.db.session import in_transaction, make_engine
from shared.domain.refusals import Refused
from shared.gateway.port import GatewayMissingError, GatewayUnavailableError
from shared.operations.stripe_accounts import change_account, preview_change

app = typer.Typer(name="stripe-accounts", help="The Stripe account of each coverage.", no_args_is_help=True)


@app.callback()
def stripe_accounts() -> None:
    """`duecourse doctor` shows the accounts."""


@app.command("change")
def change(
    coverage: Annotated[str, typer.Argument(help="The coverage whose account changes.")],
    reason: Annotated[str, typer.Option("--reason", help="Required: why the company moved; stored.")],
    is_confirmed: Annotated[bool, typer.Option("--yes", help="Change it; without this, only show it.")] = False,
) -> None:
    """Let a coverage use the Stripe account of its present API key, after showing both.

    Customers, cards and PaymentIntents of the former account can't be reached afterwards: import the customers of
    the new one. Refused while an attempt has no outcome.
    """
    from shared.gateway.stripe_gateway import make_gateways  # the SDK is slow to import

    with plain_errors():
        settings = connect_settings()
        gateway = make_gateways(settings).get(coverage)
        if gateway is None:
            print_error(f"STRIPE_API_KEYS has no key for {coverage}. To do: check the name and the variable.")
            raise typer.Exit(2)
        try:
            of_key = gateway.check_key()
        except (GatewayUnavailableError, GatewayMissingError) as error:
            print_error(f"not changed: {error}. To do: correct the key, or try again once Stripe answers.")
            raise typer.Exit(1) from None
        engine = make_engine(settings, pool_size=1)
        with engine.connect() as connection:
            shown = preview_change(connection, coverage, of_key)
        out().print(
            f"{coverage} uses {shown.pinned or 'no account yet'}; its key belongs to {of_key}. "
            f"Attempts without an outcome: {shown.open_attempts}.",
            markup=False,
        )
        if not is_confirmed:
            out().print("Nothing is changed yet. Run it again with --yes to change the account.")
            return
        cause = Cause(operator(), clock_of(settings).now(), reason)
        answer = in_transaction(
            engine, lambda connection: change_account(connection, coverage, of_key, cause, machine_now())
        )
    if isinstance(answer, Refused):
        print_error(f"not changed: {answer.reason}. To do: {answer.what_to_do}.")
        raise typer.Exit(1)
    out().print(f"{coverage} uses {of_key} now. Start the workers again.", markup=False)
