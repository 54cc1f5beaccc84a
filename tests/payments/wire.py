"""A gateway wrapper that stops requests and loses answers."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from shared.gateway.port import Answer, Outcome, ProcessorGateway
from tests.world import World

UNANSWERED = Answer(Outcome.UNKNOWN, "no_answer: APIConnectionError")


class KilledError(Exception):
    """Stands for kill -9 at this point: nothing after it happens."""


class Wire:
    """The real gateway with callbacks before and after each request."""

    def __init__(self, gateway: ProcessorGateway) -> None:
        self._gateway = gateway
        self.before: dict[str, Callable[[], None]] = {}
        self.after: dict[str, Callable[[Answer], Answer]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._gateway, name)

        def call(*arguments: Any) -> Any:
            self.before.get(name, lambda: None)()
            return self.after.get(name, lambda answer: answer)(method(*arguments))

        return call


def kill(*_: Any) -> Any:
    raise KilledError


def lose_answer(_: Answer) -> Answer:
    return UNANSWERED


def expire_lease(world: World) -> None:
    world.machine.advance(minutes=5, seconds=1)


def settle_last_attempt(world: World, payment: UUID) -> None:
    world.settle(world.attempts(payment)[-1].id)


def count_posts(world: World, what: str) -> int:
    return sum(
        snapshot.path.endswith(what) and snapshot.method == "POST"
        for snapshot in world.simulator.requests(limit=10_000)
    )
