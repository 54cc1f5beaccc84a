"""Two workers on one payment, the first past its lease: one charge, and one succeeded attempt."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from shared.reconciliation.verify import Scope, verify
from shared.reconciliation.verify.attempts import ATTEMPTS
from simulator.issuer.stories import Pays
from tests.races.contender import PausingGateway
from tests.races.racers import PATIENCE_S
from tests.world import World
from workers.use_cases.charge_payment import charge_payment


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)], ids=["the late one first", "its successor first"])
def test_two_confirming_workers_have_one_success(
    world: World, threads: ThreadPoolExecutor, first: int, second: int
) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=Pays())
    payment = world.add_due_payment(account)
    workers = []
    for _ in range(2):
        gateway = PausingGateway(world.runtime.gateways["global"], "confirm_payment_intent", is_sent=False)
        runtime = replace(world.runtime, gateways={"global": gateway})
        workers.append((gateway, threads.submit(charge_payment, runtime, payment)))
        assert gateway.stands.wait(PATIENCE_S)
        if len(workers) == 1:
            world.machine.advance(minutes=6)
            world.settle(world.attempts(payment)[0].id)
            world.machine.advance(minutes=1)
    assert [attempt.state for attempt in world.attempts(payment)] == ["not_sent", "started"]

    for turn in (first, second):
        gateway, charge = workers[turn]
        gateway.goes_on.set()
        charge.result(PATIENCE_S)

    states = [attempt.state for attempt in world.attempts(payment)]
    assert sorted(states) == ["not_sent", "succeeded"]
    assert states[first] == "succeeded"
    assert world.payment(payment).state == "paid"
    assert world.captured_amounts(payment) == [5_00]
    scope = Scope(now=world.clock.now(), machine_now=world.machine(), forgotten_after=timedelta(0))
    report = verify(world.engine, scope, gateways=None, coverages=[], checks=ATTEMPTS)
    assert [one.what for result in report.results for one in result.breaks] == []
