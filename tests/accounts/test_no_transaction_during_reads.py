"""While a Stripe event's object is fetched, no transaction is open: an outage there blocks nothing here."""

from dataclasses import replace
from typing import Any

from sqlalchemy import create_engine, text

from shared.gateway.port import ProcessorGateway
from tests.accounts.conftest import CardWorld

OPEN_TRANSACTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'
"""


def test_no_transaction_is_open_while_an_event_object_is_fetched(here: CardWorld) -> None:
    world = here.world
    world.register_card(world.account("A-1"))
    others = create_engine(world.engine.url, isolation_level="AUTOCOMMIT")
    snapshot: list[tuple[str, int]] = []

    class Watched:
        """The real gateway; before each request the open transactions are counted."""

        def __init__(self, gateway: ProcessorGateway) -> None:
            self._gateway = gateway

        def __getattr__(self, name: str) -> Any:
            with others.connect() as connection:
                snapshot.append((name, connection.execute(text(OPEN_TRANSACTIONS)).scalar_one()))
            return getattr(self._gateway, name)

    watched: Any = Watched(world.runtime.gateways["global"])
    runtime = replace(world.runtime, gateways={**world.runtime.gateways, "global": watched})
    for job in here.arrived():
        here.apply(job, runtime)
    others.dispose()
    assert ("retrieve_setup_intent", 0) in snapshot
    assert ("retrieve_card", 0) in snapshot
    assert {still_open for _, still_open in snapshot} == {0}
