"""`duecourse users …`: users of the dashboard. The first admin is added here."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import typer
from rich.prompt import Prompt
from rich.table import Table
from sqlalchemy import Connection, select

from cli.console import clock_of, operator, out, plain_errors, print_error
from cli.environment import connect_settings
from shared.clock import machine_now
from shared.db.session import in_transaction, make_engine
from shared.db.tables.operators import users
from shared.domain.roles import Role
from shared.operations.audit_log import AuditAction, AuditEntry, record_action
from shared.operations.passwords import PasswordError, check_password
from shared.operations.users import (
    User,
    UserError,
    add_user,
    clean_name,
    find_user,
    set_disabled,
    set_password,
    user_of,
)
from shared.settings import Settings

Result = TypeVar("Result")

app = typer.Typer(name="users", help="Users of the dashboard.", no_args_is_help=True)

#: Where a script puts a password: never on a command line, which others on the machine can read.
PASSWORD_VARIABLE = "DUECOURSE_NEW_PASSWORD"  # noqa: S105  # a name, not a secret


@app.callback()
def _users() -> None:
    """Users of the dashboard."""


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="The name to sign in with: a–z, 0–9, dot, dash, underscore, @.")],
    role: Annotated[Role, typer.Option("--role", help="The user's role.")] = Role.VIEWER,
    by_proxy: Annotated[
        bool, typer.Option("--by-proxy", help="No password: the user signs in through a trusted proxy only.")
    ] = False,
) -> None:
    """Add a user. Prompts for a password, or reads it from DUECOURSE_NEW_PASSWORD."""
    with plain_errors():
        settings = connect_settings()
        password = None if by_proxy else _new_password(name)
        now = clock_of(settings).now()

        def work(connection: Connection) -> User:
            user = add_user(connection, name, role, password, operator(), machine_now())
            done = AuditEntry(
                AuditAction.USER_ADD,
                operator(),
                now,
                subject_kind="person",
                subject=user.name,
                reason="at the command line",
                result={"role": role},
            )
            record_action(connection, done)
            return user

        user = _write(settings, work)
    print(f"{user.name} may sign in as {user.role}")


@app.command("password")
def change_password(
    name: Annotated[str, typer.Argument(help="The user's name.")],
) -> None:
    """Set a user's password and end all their sessions. Prompts, or reads DUECOURSE_NEW_PASSWORD."""
    with plain_errors():
        settings = connect_settings()
        password = _new_password(name)
        _change(
            settings,
            name,
            AuditAction.USER_PASSWORD,
            lambda connection, user: set_password(connection, user, password, machine_now()),
        )
    print(f"{name} has a new password and is signed out everywhere")


@app.command("lock")
def lock(
    name: Annotated[str, typer.Argument(help="The user's name.")],
    again: Annotated[bool, typer.Option("--undo", help="Unlock the user.")] = False,
) -> None:
    """Lock a user and end all their sessions; with --undo, unlock the user."""
    with plain_errors():
        _change(
            connect_settings(),
            name,
            AuditAction.USER_UNLOCK if again else AuditAction.USER_LOCK,
            lambda connection, user: set_disabled(connection, user, is_disabled=not again),
        )
    print(f"{name} may sign in again" if again else f"{name} is locked out")


@app.command("list")
def list_users() -> None:
    """List all users, locked ones included."""
    with plain_errors(), make_engine(connect_settings(), pool_size=1).connect() as connection:
        found = connection.execute(select(users).order_by(users.c.name)).all()
    if not found:
        print("No users yet. Add the first admin: duecourse users add NAME --role admin")
        return
    table = Table("name", "role", "added by", "may sign in", box=None)
    for row in found:
        table.add_row(row.name, row.role, row.added_by, "no: locked out" if row.is_disabled else "yes")
    out().print(table)


def _change(settings: Settings, name: str, act: AuditAction, change: Callable[[Connection, User], None]) -> None:
    now = clock_of(settings).now()

    def work(connection: Connection) -> None:
        row = find_user(connection, name)
        if row is None:
            raise UserError(f"there is no user {name!r}; `duecourse users list` shows all")
        user = user_of(row)
        change(connection, user)
        done = AuditEntry(
            act, operator(), now, subject_kind="person", subject=user.name, reason="at the command line"
        )
        record_action(connection, done)

    _write(settings, work)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (UserError, PasswordError) as error:
        print_error(str(error))
        raise typer.Exit(1) from None


def _write(settings: Settings, work: Callable[[Connection], Result]) -> Result:
    with _refusals():
        return in_transaction(make_engine(settings, pool_size=1), work)


def _new_password(name: str) -> str:
    """Read the new password; it and the name are checked before a person types the password again."""
    given = os.environ.get(PASSWORD_VARIABLE)
    if given:
        return given
    if not sys.stdin.isatty():
        print_error(f"no terminal to ask for a password: put it into {PASSWORD_VARIABLE}")
        raise typer.Exit(2)
    with _refusals():
        cleaned = clean_name(name)
        first = Prompt.ask("New password", password=True)
        check_password(first, cleaned)
    if first != Prompt.ask("Repeat the password", password=True):
        print_error("the two passwords differ; nothing was changed")
        raise typer.Exit(1)
    return first
