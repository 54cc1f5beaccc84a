"""A pytest plugin for mutmut's children: databases are copies of a template that was migrated before the run."""

import os
from collections.abc import Callable

from tests.servers import Servers

TEMPLATE = "MUTANTS_TEMPLATE"


def take_template(_servers: Servers, _migrate: Callable[[str], object]) -> str:
    """Return the name of the template that the parent made."""
    return os.environ[TEMPLATE]


def pytest_configure() -> None:
    Servers.make_template = take_template  # type: ignore[method-assign]
