"""What a newcomer reads to follow one charge: the files, functions and transactions that it passes.

python -m benchmarks.walk

Two walks in a diary's company (real PostgreSQL, the simulator, our web process), each followed from its start to
the last commit of the attempt it leads to:

- a retry: from the scheduler's tick to the recorded decline;
- a new card: from its webhook to the recorded charge of an unpaid payment.

Every function of scheduler/, workers/, shared/ and web/ that runs counts once, at its first call; lambdas and
comprehensions belong to the function around them. A transaction counts if it commits. What runs only when a module
is imported, and the test's own looks at the database, are not counted.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Self

import structlog
from sqlalchemy import Connection, Engine, create_engine, event

from shared.messaging.jobs import ApplyStripeEvent, ChargePayment, RetryPayments
from simulator.issuer.stories import AlwaysDeclines
from tests.conftest import sqlalchemy_url, upgrade
from tests.diaries.conftest import only, opened
from tests.diaries.diary import Diary
from tests.servers import test_servers

PROJECT = Path(__file__).resolve().parents[1]
FOLDERS = ("scheduler", "workers", "shared", "web")
DAY_ONE = date(2026, 11, 1)


@dataclass
class Walk:
    """Files in order of their first call, each with its functions in that order; the transactions' callers."""

    functions: dict[str, dict[str, None]] = field(default_factory=dict)
    transactions: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        count = sum(len(names) for names in self.functions.values())
        yield f"{len(self.functions)} files, {count} functions, {len(self.transactions)} transactions"
        for place, (file, names) in enumerate(self.functions.items(), 1):
            yield f"  {place:2}  {file}: {', '.join(names)}"
        yield from (f"  commit {place}  {caller}" for place, caller in enumerate(self.transactions, 1))


class Recorder:
    """Notes what runs between `walking` and its end, in this thread and in those that start after `__enter__`."""

    def __init__(self) -> None:
        self._walk: Walk | None = None

    def __enter__(self) -> Self:
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        event.listen(Engine, "commit", self._note_commit)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(Engine, "commit", self._note_commit)
        sys.setprofile(None)
        threading.setprofile(None)

    @contextmanager
    def walking(self) -> Iterator[Walk]:
        self._walk = walk = Walk()
        try:
            yield walk
        finally:
            self._walk = None

    def _note(self, frame: FrameType, what: str, _argument: object) -> None:
        if self._walk is not None and what == "call" and (file := _file_of(frame)) is not None:
            name = _name_of(frame)
            if name is not None:
                self._walk.functions.setdefault(file, {})[name] = None

    def _note_commit(self, _connection: Connection) -> None:
        if self._walk is not None:
            self._walk.transactions.append(_committer(sys._getframe()))


def _file_of(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(PROJECT):
        return None
    file = path.relative_to(PROJECT)
    return file.as_posix() if file.parts[0] in FOLDERS else None


def _name_of(frame: FrameType) -> str | None:
    """`Class.method` or `function`; None for modules. What is defined within a function bears that one's name."""
    name = frame.f_code.co_qualname.split(".<locals>")[0]
    return None if name.endswith(">") else name


def _committer(frame: FrameType | None) -> str:
    """The nearest caller in our code outside of shared/db/session.py, which commits for all others."""
    while frame is not None:
        file = _file_of(frame)
        if file is not None and file != "shared/db/session.py":
            return f"{file}: {frame.f_code.co_qualname}"
        frame = frame.f_back
    return "outside of our code"


def retry(diary: Diary, recorder: Recorder) -> Walk:
    """From the tick of a declined payment's next day to its second decline."""
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna, story=AlwaysDeclines(decline_code="insufficient_funds"))
    diary.day(1)
    payment = diary.payment(anna)
    diary.advance_to("2026-11-02 08:59")
    diary.world.clock.set(diary.now.replace(hour=9, minute=0))
    with diary.webhooks_held(), recorder.walking() as walk:  # the decline's webhook only repeats the answer
        jobs = diary.tick()
        while jobs:
            diary.do_all(job for job in jobs if isinstance(job, RetryPayments | ChargePayment))
            jobs = diary.world.take_enqueued()
    assert [outcome for _, outcome in diary.attempts(payment)] == ["declined", "declined"]
    return walk


def new_card(diary: Diary, recorder: Recorder) -> Walk:
    """From the webhook of a customer's new card to the charge of the payment that waited for it."""
    bob = diary.account("B-1")
    diary.fee(bob, 29_85)
    diary.register_card(bob, story=AlwaysDeclines(decline_code="expired_card"))
    diary.day(1)
    payment = diary.payment(bob)
    with diary.webhooks_held():
        diary.world.register_card(bob)
        with recorder.walking() as walk:
            diary.let_through("setup_intent.succeeded")
            while jobs := diary.world.take_enqueued():
                diary.do_all(job for job in jobs if isinstance(job, ApplyStripeEvent | ChargePayment))
    assert diary.state(payment) == "paid"
    return walk


WALKS: tuple[tuple[str, Callable[[Diary, Recorder], Walk]], ...] = (
    ("A retry, from tick to decline", retry),
    ("A new card, from webhook to charge", new_card),
)


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for title, walk_of in WALKS:
        with (
            test_servers() as servers,
            servers.fresh_database(servers.make_template(upgrade)) as url,
            Recorder() as recorder,  # before the web process starts its threads
        ):
            engine = create_engine(sqlalchemy_url(url))
            with opened(engine, url, DAY_ONE, only("global")) as diary:
                walk = walk_of(diary, recorder)
            engine.dispose()
        print(f"{title}: ", end="")
        print(*walk.lines(), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
