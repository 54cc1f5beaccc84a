"""`duecourse customers …`: create a Stripe customer for every account that pays by card."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.console import operator, out, plain_errors, print_error
from cli.environment import connect_settings
from shared.accounts.forgotten_customers import find_customer, forget_customer
from shared.accounts.stripe_customers import THREADS, CreatedCustomers, count_missing_customers, create_customers
from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.domain.refusals import Refused
from shared.gateway.port import GatewayUnavailableError, Missing
from shared.runtime import Runtime, build_runtime

app = typer.Typer(name="customers", help="Customers at the card processor.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Customers at the card processor."""  # without a callback the only command would have no name


@app.command("create")
def create(
    coverage: Annotated[
        str | None, typer.Option("--coverage", help="One coverage; by default all of them.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, max=64, help="Concurrent requests.")] = THREADS,
) -> None:
    """Create the missing Stripe customers. Safe to stop and to rerun."""
    with plain_errors():
        runtime = build_runtime(connect_settings(), pool_size=threads + 1)
        coverages = list(runtime.policy.coverages) if coverage is None else [runtime.policy.coverage(coverage).code]
        results = [_create_in(runtime, code, threads) for code in coverages]
    if any(result.not_created for result in results):
        print_error("Run the command again: created customers are kept, and no request creates a second one.")
        raise typer.Exit(1)


@app.command("forget")
def forget(
    account: Annotated[str, typer.Argument(help="The account's number.")],
    coverage: Annotated[str, typer.Option("--coverage", help="The coverage of its Stripe customer.")],
    reason: Annotated[str, typer.Option("--reason", help="Required; stored.")],
    is_confirmed: Annotated[bool, typer.Option("--yes", help="Forget it; without this, only show it.")] = False,
) -> None:
    """Forget a Stripe customer that was deleted at Stripe, with its cards; then another one can be imported."""
    with plain_errors():
        runtime = build_runtime(connect_settings(), pool_size=1)
        gateway = runtime.gateways.get(runtime.policy.coverage(coverage).code)
        if gateway is None:
            raise LookupError(f"STRIPE_API_KEYS has no key for coverage {coverage}; add it")
        with runtime.engine.connect() as connection:
            seen = find_customer(connection, account, coverage)
        if seen is None:
            raise LookupError(f"account {account} has no Stripe customer with cards in {coverage}")
        out().print(
            f"{account}: {seen.stripe_customer_id} in {coverage}, with {seen.cards} registered cards, "
            f"{seen.cards_in_use} of them in use"
        )
        try:
            missing = gateway.find_missing(seen.stripe_customer_id, seen.a_payment_method_id)
        except GatewayUnavailableError as error:
            raise LookupError(f"Stripe doesn't say whether it was deleted: {error}") from None
        if missing is Missing.CUSTOMER and not is_confirmed:
            out().print("It was deleted at Stripe. Nothing is changed yet: run it again with --yes to forget it.")
            return
        cause = Cause(operator(), runtime.clock.now(), reason)
        answer = in_transaction(
            runtime.engine, lambda connection: forget_customer(connection, seen, missing, cause)
        )
    if isinstance(answer, Refused):
        print_error(f"not forgotten: {answer.reason}. To do: {answer.what_to_do}.")
        raise typer.Exit(1)
    out().print("Forgotten, with its cards. `duecourse customers create` makes another one, or import one.")


def _create_in(runtime: Runtime, coverage: str, threads: int) -> CreatedCustomers:
    gateway = runtime.gateways.get(coverage)
    if gateway is None:
        raise LookupError(f"STRIPE_API_KEYS has no key for coverage {coverage}; add it")
    console = Console(stderr=True)
    columns = (
        TextColumn("customers {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(coverage, total=count_missing_customers(runtime, coverage))
        result = create_customers(
            runtime, gateway, coverage, operator(), threads, lambda count: progress.advance(task, count)
        )
    out().print(f"{coverage}: {result.created} customers created, {result.not_created} not created")
    for error in result.errors:
        print_error(error)
    return result
