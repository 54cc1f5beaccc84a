"""Output of commands: results to standard output, everything else to standard error, no tracebacks."""

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg.errors
import redis
import typer
from rich.console import Console
from sqlalchemy.exc import DBAPIError

from shared.clock import BusinessClock, SystemClock, VirtualClock
from shared.db.session import make_engine
from shared.logs import redact
from shared.policy import PolicyError
from shared.scheduling.runs import RunError
from shared.settings import ClockKind, Settings, SettingsError

#: A file or a pipe has no terminal width; ids and sentences stay on one line.
WIDTH_OF_A_PIPE = 160


def out() -> Console:
    """The console for results: coloured on a terminal, plain and wide elsewhere."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE)


def print_error(text: str) -> None:
    """Print an error on standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="red", markup=False)


def operator() -> str:
    """The actor that billing events name for commands: `operator:<OS user>`."""
    try:
        return f"operator:{getpass.getuser()}"
    except (OSError, KeyError):  # a uid without a name, as in some containers
        return "operator:unknown"


def clock_of(settings: Settings) -> BusinessClock:
    """The business clock that the settings name, on a connection of its own."""
    return (
        VirtualClock(make_engine(settings, pool_size=1)) if settings.clock is ClockKind.VIRTUAL else SystemClock()
    )


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print errors that an operator can fix as one sentence, with exit code 1; any other exception is a defect."""
    try:
        yield
    except (SettingsError, PolicyError, LookupError) as error:
        print_error(redact(str(error.args[0] if error.args else error)))
        raise typer.Exit(1) from None
    except RunError as error:
        print_error(str(error))
        raise typer.Exit(1) from None
    except DBAPIError as error:
        print_error(_of_database(error))
        raise typer.Exit(1) from None
    except redis.RedisError as error:
        print_error(f"Redis at REDIS_URL doesn't answer: {redact(str(error))}. `duecourse doctor` says more.")
        raise typer.Exit(1) from None


def _of_database(error: DBAPIError) -> str:
    said = redact(str(error.orig).strip().splitlines()[0]) if str(error.orig).strip() else type(error.orig).__name__
    if isinstance(error.orig, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        return f"the database isn't migrated ({said}): run `duecourse db upgrade`"
    return f"PostgreSQL at DATABASE_URL: {said}. `duecourse doctor` says more."


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: "1 payment", "1,000 payments"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
