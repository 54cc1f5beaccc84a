"""Workers that stand still or are killed at a step of their work: a statement, a commit, a request, a ring, a
named failpoint.

A worker may stand still only where no transaction is open, as a slow or frozen process would be met by others:
before a transaction, before a request leaves, after its answer came, before it rings. It may be killed anywhere:
what isn't committed then is rolled back, which is what PostgreSQL does when a client's connection breaks.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, event

from shared.failpoints import Failpoint, armed
from shared.messaging.jobs import Job

#: Machine seconds of the real clock: a worker that takes longer hangs, and the test says where.
HANGS_AFTER_S = 60.0


class Killed(BaseException):
    """kill -9. No `except Exception` of ours may catch it."""


#: A step or a place to stand, by its number or by its name.
Where = int | str
#: Around the two requests that matter, where most of what can go wrong does.
AROUND_REQUESTS = tuple(
    f"{when} {name}" for name in ("create_payment_intent", "confirm_payment_intent") for when in ("before", "after")
)


class Plan:
    """What befalls a worker: killed at its `kill_at`-th step, or standing at its `stand_at`-th place to stand."""

    def __init__(self, kill_at: Where | None = None, stand_at: Where | None = None) -> None:
        self.kill_at, self.stand_at = kill_at, stand_at
        self.step = self.place = 0
        self.stand: Callable[[str], None] = lambda _name: None

    def reach(self, name: str, *, may_stand: bool) -> None:
        self.step += 1
        if self.kill_at in (self.step, name):
            raise Killed(name)
        if may_stand:
            self.place += 1
            if self.stand_at in (self.place, name):
                self.stand_at = None
                self.stand(name)


_of_this_thread = threading.local()


def reach(name: str, *, may_stand: bool = False) -> None:
    """A worker's next step. Without a plan for this thread nothing happens."""
    plan: Plan | None = getattr(_of_this_thread, "plan", None)
    if plan is not None:
        plan.reach(name, may_stand=may_stand)


def failpoints_are_steps() -> AbstractContextManager[None]:
    """As long as this lasts, every named failpoint of the product is a step."""

    def at(point: Failpoint) -> None:
        reach(point)

    return armed(at)


def watch_engine(engine: Engine) -> None:
    """Make every transaction, statement and commit of an engine a step."""
    event.listen(engine, "begin", lambda _connection: reach("begin", may_stand=True))
    event.listen(engine, "before_cursor_execute", lambda *_: reach("statement"))
    event.listen(engine, "commit", lambda _connection: reach("commit"))


class WatchedGateway:
    """The real gateway, with a step before each request leaves and one after its answer came."""

    def __init__(self, gateway: Any) -> None:
        self._gateway = gateway

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._gateway, name)

        def watched(*arguments: Any) -> Any:
            reach(f"before {name}", may_stand=True)
            answer = method(*arguments)
            reach(f"after {name}", may_stand=True)
            return answer

        return watched


def watched_enqueue(enqueue: Callable[[Iterable[Job]], bool]) -> Callable[[Iterable[Job]], bool]:
    def watched(jobs: Iterable[Job]) -> bool:
        reach("ring", may_stand=True)
        return enqueue(jobs)

    return watched


def work_or_die(work: Callable[[], None], kill_at: Where) -> str | None:
    """Work in this thread until killed; where, or None if there were fewer steps than `kill_at`."""
    _of_this_thread.plan = Plan(kill_at=kill_at)
    try:
        work()
    except Killed as killed:
        return str(killed)
    finally:
        _of_this_thread.plan = None
    return None


class Worker:
    """A worker of its own thread, that runs only while the test waits for it."""

    def __init__(self, job: Job, work: Callable[[], None], stand_at: Where) -> None:
        self.job = job
        self.stands_at: str | None = None
        self.attempt_id: UUID | None = None
        self.error: BaseException | None = None
        self._plan = Plan(stand_at=stand_at)
        self._plan.stand = self._stand
        self._work = work
        self._go, self._stopped = threading.Event(), threading.Event()
        self._is_killed = False
        self._thread = threading.Thread(target=self._run, name=f"worker on {job.name}", daemon=True)
        self._thread.start()
        self._wait()

    @property
    def is_standing(self) -> bool:
        return self.stands_at is not None

    def go_on(self) -> None:
        """Let it work to its end."""
        self.stands_at = None
        self._stopped.clear()
        self._go.set()
        self._wait()

    def kill(self) -> None:
        """It never gets further."""
        self._is_killed = True
        self.go_on()

    def _wait(self) -> None:
        if not self._stopped.wait(HANGS_AFTER_S):
            raise TimeoutError(f"the worker on {self.job} neither stands nor ends; it last stood {self.stands_at}")
        if self.error is not None:
            raise self.error

    def _stand(self, name: str) -> None:
        self.stands_at = name
        self._stopped.set()
        self._go.wait()
        if self._is_killed:
            raise Killed(name)

    def _run(self) -> None:
        _of_this_thread.plan = self._plan
        try:
            self._work()
        except Killed:
            pass
        except BaseException as error:  # raised again in the thread that waits for us
            self.error = error
        finally:
            self._stopped.set()
