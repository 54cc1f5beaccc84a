"""Samples open attempts and pending work twice a second during a run."""

import threading
from dataclasses import dataclass

from sqlalchemy import text

from local.chaos import processes
from local.chaos.context import EXPECTED_ERRORS, ChaosContext

POLL_EVERY_S = 0.25
SAMPLE_EVERY_POLLS = 2
_SAMPLE = text("""
    SELECT (SELECT count(*) FROM payment_attempts WHERE state = 'started') AS started,
           (SELECT count(*) FROM payment_attempts WHERE state = 'unknown') AS unknown,
           (SELECT count(*) FROM payments WHERE state IN ('due', 'retry_scheduled') AND held_until IS NULL
              AND next_attempt_at <= (SELECT now_at FROM business_clock)) AS due,
           (SELECT count(*) FROM stripe_events WHERE state IN ('received', 'trouble')) AS stripe_events,
           (SELECT count(*) FROM receipts) AS captured,
           (SELECT to_char(now_at, 'YYYY-MM-DD') FROM business_clock) AS day
""")


@dataclass(frozen=True)
class Sample:
    """One sample, `at_s` seconds after the first fault. `due` includes payments that back off."""

    at_s: float
    started: int
    unknown: int
    due: int
    stripe_events: int
    captured: int
    day: str


class Watch:
    """A thread that takes samples and polls the fault queue. While PostgreSQL is down there are no samples."""

    def __init__(self, context: ChaosContext) -> None:
        self._context = context
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="chaos-watch", daemon=True)
        self.samples: list[Sample] = []
        self.defect: BaseException | None = None

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join(15)

    @property
    def last(self) -> Sample | None:
        """The latest sample."""
        return self.samples[-1] if self.samples else None

    def _watch(self) -> None:
        polls = 0
        try:
            while not self._over.wait(POLL_EVERY_S):
                self._context.fault_queue.poll()
                processes.note_restarts(self._context)
                polls += 1
                if polls % SAMPLE_EVERY_POLLS == 0:
                    self._sample()
        except BaseException as error:  # raised by the main thread at the end
            self.defect = error

    def _sample(self) -> None:
        at_s = round(self._context.elapsed_s, 2)
        try:
            with self._context.company.connect() as connection:
                row = connection.execute(_SAMPLE).one()
        except EXPECTED_ERRORS:
            return
        self.samples.append(Sample(at_s, *row))
