"""Records are made once; each test gets a copy of the database, beside one shared simulator."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import create_engine, text

from tests.conftest import sqlalchemy_url
from tests.servers import Servers
from tests.verify.records import Records, make_records
from tests.world import running_world


@pytest.fixture(scope="module")
def originals(servers: Servers, migrated: str) -> Iterator[tuple[Records, str]]:
    """The records, and the name of their database, which has no connections."""
    with servers.fresh_database(migrated) as url:
        engine = create_engine(sqlalchemy_url(url))
        with running_world(engine) as world:
            records = make_records(world)
            with engine.connect() as connection:
                name = connection.execute(text("SELECT current_database()")).scalar_one()
            engine.dispose()
            yield records, name


@pytest.fixture
def records(servers: Servers, originals: tuple[Records, str]) -> Iterator[Records]:
    """Records that a test may break. The processor is shared: a test that charges makes a world of its own."""
    original, name = originals
    with servers.fresh_database(name) as url:
        engine = create_engine(sqlalchemy_url(url))
        world = original.world
        runtime = replace(world.runtime, engine=engine, gateways=dict(world.runtime.gateways))
        yield replace(original, world=replace(world, engine=engine, runtime=runtime))
        engine.dispose()
