"""Seams: the places where a guard is removed without touching the source. Each is applied once per process."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, create_engine, event, text

#: Modules that may hold a replaced attribute under the same name, because they imported it.
PACKAGES = ("cli", "local", "scheduler", "shared", "simulator", "tests", "web", "workers")
LOCK_CLAUSE = r"\s+FOR (NO KEY UPDATE|UPDATE|SHARE|KEY SHARE)( OF \w+)?( SKIP LOCKED| NOWAIT)?"

Statement = Callable[[str], str]


class Seam(Protocol):
    """A way to remove a guard in this process, or in the databases that its tests use."""

    def apply(self) -> None:
        """Remove the guard. AttributeError or ImportError if it isn't where the seam says."""


@dataclass(frozen=True)
class Wrap:
    """Replace a public attribute (`function`, `TABLE`, `Class.method`) by what `by` makes of it.

    Modules that have imported it already get the new one too, unless `is_only_here`.
    """

    module: str
    attribute: str
    by: Callable[[Any], Any]
    is_only_here: bool = False

    def find(self) -> tuple[Any, str, Any]:
        """Return the attribute's owner, its own name and its value."""
        owner: Any = import_module(self.module)
        *path, name = self.attribute.split(".")
        for part in path:
            owner = getattr(owner, part)
        return owner, name, getattr(owner, name)

    def apply(self) -> None:
        owner, name, before = self.find()
        after = self.by(before)
        setattr(owner, name, after)
        if isinstance(owner, ModuleType) and not self.is_only_here:
            for module in _our_modules():
                if vars(module).get(name) is before:
                    setattr(module, name, after)


@dataclass(frozen=True)
class Rewrite:
    """Change the statements that SQLAlchemy sends, as `by` says."""

    by: Statement

    def apply(self) -> None:
        def rewrite(
            _connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _is_many: bool
        ) -> tuple[str, Any]:
            return self.by(statement), parameters

        event.listen(Engine, "before_cursor_execute", rewrite, retval=True)


@dataclass(frozen=True)
class Sql:
    """Change every migrated database of the tests."""

    statement: str

    def apply(self) -> None:
        from tests.conftest import sqlalchemy_url
        from tests.servers import Servers

        make_template = Servers.make_template

        def make_broken_template(servers: Servers, migrate: Callable[[str], object]) -> str:
            def migrate_and_break(url: str) -> None:
                migrate(url)
                engine = create_engine(sqlalchemy_url(url))
                with engine.begin() as connection:
                    self.execute(connection)
                engine.dispose()

            return make_template(servers, migrate_and_break)

        Servers.make_template = make_broken_template  # type: ignore[method-assign]

    def execute(self, connection: Connection) -> None:
        connection.execute(text(self.statement))


def unlocked(table: str) -> Rewrite:
    """Reads of this table lock no row."""

    def without_lock(statement: str) -> str:
        first = re.search(r"\bFROM (\w+)", statement)
        is_ours = first is not None and first[1] == table
        return re.sub(LOCK_CLAUSE, "", statement) if is_ours else statement

    return Rewrite(without_lock)


def replaced(pattern: str, by: str) -> Rewrite:
    """Whatever in a statement matches is replaced."""
    return Rewrite(lambda statement: re.sub(pattern, by, statement, flags=re.DOTALL))


def nothing(_before: Any) -> Callable[..., None]:
    """In the place of a function: do nothing."""
    return lambda *_arguments, **_named: None


def with_entry(key: Any, value: Any) -> Callable[[Any], Any]:
    """A table with another value for one of its keys. KeyError if it has no such key."""

    def change(table: Any) -> Any:
        table[key]  # raises KeyError
        return {**table, key: value}

    return change


def _our_modules() -> list[ModuleType]:
    return [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in PACKAGES]
