"""The racing processes: each with its own engine, gateway and clocks, synchronized by a barrier."""

import logging
import multiprocessing
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection as Pipe
from typing import Any
from uuid import UUID

import structlog

from shared.gateway.port import StripeEventSnapshot
from tests.races.plan import Round

#: Seconds until a process that doesn't come to the start, or back from it, is given up; a loaded machine is slow.
PATIENCE_S = 120.0
#: Each process is forked from one that has the imports and nothing else: no thread, no connection.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["tests.races.contender"])


class SharedMoment:
    """Business time, one number that all processes and the simulator read."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._value.value, UTC)

    def set(self, moment: datetime) -> None:
        self._value.value = moment.timestamp()


@dataclass(frozen=True)
class Bound:
    """A round with the rows and events that it is about, and the instant at which it is run."""

    round: Round
    at: datetime
    payment_id: UUID
    registration: tuple[StripeEventSnapshot, ...]  # what Stripe tells of the new card


@dataclass(frozen=True)
class Batch:
    """Rounds to run one after the other, on one company."""

    database_url: str
    simulator_url: str
    coverage: str
    rounds: tuple[Bound, ...]


@dataclass(frozen=True)
class Deliveries:
    """Events that come in after the rounds, in this order: late, again, and reordered."""

    database_url: str
    simulator_url: str
    coverage: str
    events: tuple[StripeEventSnapshot, ...]


@dataclass(frozen=True)
class Told:
    """What a process has to say after a batch: errors that escaped, with their round."""

    errors: tuple[str, ...]


class Racers:
    """The processes, seen from the test."""

    def __init__(self, processes: list[Any], pipes: list[Pipe], moment: SharedMoment, barrier: Any) -> None:
        self._processes, self._pipes, self._barrier = processes, pipes, barrier
        self.moment = moment

    def __len__(self) -> int:
        return len(self._processes)

    def run(self, batch: Batch) -> list[str]:
        """Run the rounds and return the errors that escaped."""
        return self._ask([batch] * len(self))

    def deliver(self, deliveries: list[Deliveries]) -> list[str]:
        """Let each process apply its own share, all at once."""
        return self._ask(deliveries)

    def _ask(self, work: list[Any]) -> list[str]:
        for pipe, task in zip(self._pipes, work, strict=True):
            pipe.send(task)
        return [error for index, pipe in enumerate(self._pipes) for error in self._answer(index, pipe).errors]

    def _answer(self, index: int, pipe: Pipe) -> Told:
        deadline = time.monotonic() + 5 * PATIENCE_S
        while not pipe.poll(0.5):
            alive = self._processes[index].is_alive()
            if not alive or time.monotonic() > deadline:
                self._barrier.abort()
                raise AssertionError(f"racer {index} {'is stuck' if alive else 'died'}")
        told: Told = pipe.recv()
        return told


@contextmanager
def running_racers(count: int) -> Iterator[Racers]:
    """Start so many processes and wait until each is ready."""
    value, barrier = FRESH.Value("d", 0.0, lock=False), FRESH.Barrier(count)
    processes, pipes = [], []
    for index in range(count):
        ours, theirs = FRESH.Pipe()
        process = FRESH.Process(target=_race, args=(index, theirs, value, barrier), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    racers = Racers(processes, pipes, SharedMoment(value), barrier)
    try:
        for index, pipe in enumerate(pipes):
            racers._answer(index, pipe)
        yield racers
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()


def _race(index: int, pipe: Pipe, value: Any, barrier: Any) -> None:
    """A racer's life: until the test closes the pipe."""
    from tests.races.contender import Contender  # which imports this module

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    moment = SharedMoment(value)
    pipe.send(Told(()))
    while True:
        try:
            work = pipe.recv()
        except EOFError:
            return
        contender = Contender(index, moment, work.database_url, work.simulator_url, work.coverage)
        try:
            if isinstance(work, Deliveries):
                errors = _deliver(contender, work)
            else:
                errors = _run(contender, work, barrier, moment)
        finally:
            contender.close()
        pipe.send(Told(tuple(errors)))


def _run(contender: Any, batch: Batch, barrier: Any, moment: SharedMoment) -> list[str]:
    errors: list[str] = []
    for bound in batch.rounds:
        if bound.round.preparer == contender.index:
            errors += _caught(bound, "prepares", lambda bound=bound: contender.prepare(bound))
        barrier.wait(PATIENCE_S)
        moment.set(bound.at)  # the same from all; nobody is at the round before any more
        role = bound.round.roles[contender.index]
        if role is not None:
            time.sleep(bound.round.delays_s[contender.index])
            errors += _caught(bound, role.name, lambda bound=bound, role=role: contender.act(role, bound))
    barrier.wait(PATIENCE_S)
    return errors


def _deliver(contender: Any, deliveries: Deliveries) -> list[str]:
    errors: list[str] = []
    for event in deliveries.events:
        try:
            contender.tell(event)
        except Exception:
            errors.append(f"{event.type} {event.stripe_event_id}: {traceback.format_exc()}")
    return errors


def _caught(bound: Bound, what: str, act: Any) -> list[str]:
    """Nothing may escape: a worker would count it as trouble, a person would see a page of error."""
    try:
        act()
    except Exception:
        return [f"round {bound.round.number} ({bound.round.situation}), {what}: {traceback.format_exc()}"]
    return []
