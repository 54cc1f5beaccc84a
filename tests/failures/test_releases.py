"""Workers of two releases: each accepts or dead-letters the other's messages, and rows are enqueued again.

The rule: a job's name, queue and the meaning of its arguments are permanent. A newer release may add an argument
at the end, with a default in its actor. Its workers take older messages; an older worker sets newer ones aside,
and the sweep rings until a newer worker takes one. Nothing but time is lost: the work is the row's.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from dramatiq import Message

from benchmarks.sigterm import worker_environment
from scheduler.sweep import PATIENCE, Sweep
from shared.db.query_terms import Moment
from shared.messaging.broker import make_broker, make_enqueue, waiting_messages
from shared.messaging.jobs import BATCH
from tests.broker.conftest import (  # noqa: F401  # fixtures
    _soon,
    add_actor,
    client,
    dead_letters,
    eventually,
    is_at_rest,
    running_worker,
)
from tests.world import World
from workers.use_cases.charge_payment import charge_payment

ROOT = Path(__file__).resolve().parents[2]
#: Bodies as releases wrote them into Redis, to the letter. Add those of each release; change none.
RELEASED = (Path(__file__).parent / "released_messages.jsonl").read_text().splitlines()


#: Gives each message to its actor as the worker process would, but for calling it.
UNDERSTAND = """
import inspect, json, sys
from dramatiq import Message
from workers.actors import broker
for body in sys.stdin.buffer.read().splitlines():
    message = Message.decode(body)
    bound = inspect.signature(broker.get_actor(message.actor_name).fn).bind(*message.args, **message.kwargs)
    assert message.queue_name in broker.get_declared_queues(), message.queue_name
    print(json.dumps(list(bound.arguments.values())))
"""


def test_messages_of_released_versions_are_still_accepted() -> None:
    environment = worker_environment("postgresql://nobody@127.0.0.1:1/none", "redis://127.0.0.1:1/0", "http://none")
    told = subprocess.run(
        [sys.executable, "-c", UNDERSTAND],
        input="\n".join(RELEASED).encode(),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr.decode()
    assert [json.loads(line) for line in told.stdout.splitlines()] == [
        json.loads(body)["args"] for body in RELEASED
    ]


class Upgrade:
    """A company during an upgrade: workers of both releases, one sweep."""

    def __init__(self, world: World, redis_url: str) -> None:
        self.world = world
        self.broker = make_broker(redis_url)
        self._sweep = Sweep(
            world.engine, make_enqueue(self.broker), lambda queue: waiting_messages(self.broker, queue)
        )
        self._redis_url = redis_url

    def worker_of(self, charge: Callable[..., None]) -> Any:
        """A worker whose release declares the actor like this."""
        broker = make_broker(self._redis_url)
        add_actor(broker, "charge_payment", BATCH, charge)
        return running_worker(broker, BATCH, threads=2)

    def sends(self, *arguments: str) -> None:
        self.broker.enqueue(Message(BATCH, "charge_payment", args=arguments, kwargs={}, options={}))

    def sweep(self) -> dict[str, int]:
        self.world.machine.advance(seconds=PATIENCE.total_seconds())
        return self._sweep(Moment(self.world.clock.now(), self.world.machine()))


@pytest.fixture
def upgrade(world: World, redis_url: str) -> Upgrade:
    return Upgrade(world, redis_url)


def test_newer_worker_accepts_messages_of_an_older_release(upgrade: Upgrade, owed: UUID, client: Any) -> None:  # noqa: F811
    snapshot: list[str] = []

    def newer(payment_id: str, hint: str = "none") -> None:
        snapshot.append(hint)
        charge_payment(upgrade.world.runtime, UUID(payment_id))

    upgrade.sends(str(owed))
    with upgrade.worker_of(newer):
        eventually(lambda: is_at_rest(client, BATCH), "taken")
    assert snapshot == ["none"]
    assert dead_letters(client, BATCH) == {}
    assert upgrade.world.captured_amounts(owed) == [5_00]


@pytest.mark.parametrize("arguments", [["{id}", "a hint"], []], ids=["an argument added", "an argument removed"])
def test_message_an_older_worker_cannot_accept_is_dead_lettered_and_enqueued_again(
    upgrade: Upgrade,
    owed: UUID,
    client: Any,  # noqa: F811
    arguments: list[str],
) -> None:
    def older(payment_id: str) -> None:
        charge_payment(upgrade.world.runtime, UUID(payment_id))

    upgrade.sends(*[argument.format(id=owed) for argument in arguments])
    with upgrade.worker_of(older) as worker:
        eventually(lambda: dead_letters(client, BATCH), "set aside")
        assert is_at_rest(client, BATCH)
        assert upgrade.world.captured_amounts(owed) == []
        assert all(thread.is_alive() for thread in worker.workers)
        assert upgrade.sweep() == {"due payments, batch": 1}
        eventually(lambda: upgrade.world.payment(owed).state == "paid", "the row came back")
    assert upgrade.world.captured_amounts(owed) == [5_00]


def test_mixed_releases_charge_each_payment_once(upgrade: Upgrade, world: World) -> None:
    from simulator.issuer.stories import Pays

    owed = []
    for number in range(12):
        account = world.account(f"A-{number}")
        world.add_primary_card(account, story=Pays())
        owed.append(world.add_due_payment(account))

    def older(payment_id: str) -> None:
        charge_payment(world.runtime, UUID(payment_id))

    def newer(payment_id: str, _hint: str = "none") -> None:
        charge_payment(world.runtime, UUID(payment_id))

    for payment in owed:
        upgrade.sends(str(payment))
        upgrade.sends(str(payment), "a hint")
    with upgrade.worker_of(older), upgrade.worker_of(newer):

        def are_paid() -> bool:
            upgrade.sweep()
            return all(world.payment(payment).state == "paid" for payment in owed)

        eventually(are_paid, "all paid", within_s=60)
    assert [len(world.captured_amounts(payment)) for payment in owed] == [1] * len(owed)
