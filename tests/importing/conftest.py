"""A desk with two accounts: A-1 in both coverages, A-2 only in the dollar one."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.importing.desk import Desk
from tests.seed import add_account


@pytest.fixture
def desk(engine: Engine, database_url: str, tmp_path: Path) -> Desk:
    """An empty database and a folder."""
    return Desk(engine, database_url, tmp_path)


@pytest.fixture
def stocked(desk: Desk) -> Desk:
    """The same with the two accounts in it."""
    with desk.engine.begin() as connection:
        add_account(connection, "A-1", "global")
        add_account(connection, "A-1", "japan")
        add_account(connection, "A-2", "global")
    return desk
