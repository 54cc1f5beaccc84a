"""Looks at the company twice a second while it burns: what is open, what is unknown, what waits."""

import threading
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import text

from local.chaos import processes
from local.chaos.context import TROUBLES, ChaosContext

LOOK_EVERY_S = 0.25
SAMPLE_EVERY = 2  # looks
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
    """One look, `at_s` seconds after the fire began. `due` counts those that back off, too."""

    at_s: float
    started: int
    unknown: int
    due: int
    stripe_events: int
    captured: int
    day: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Watch:
    """A thread that samples, and has the armoury look. A gap in the samples is PostgreSQL being away."""

    def __init__(self, scene: ChaosContext) -> None:
        self._scene = scene
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
        looks = 0
        try:
            while not self._over.wait(LOOK_EVERY_S):
                self._scene.armoury.look()
                processes.look(self._scene)
                looks += 1
                if looks % SAMPLE_EVERY == 0:
                    self._sample()
        except BaseException as error:  # told by whoever waits for the end
            self.defect = error

    def _sample(self) -> None:
        at_s = round(self._scene.elapsed_s, 2)
        try:
            with self._scene.company.connect() as connection:
                row = connection.execute(_SAMPLE).one()
        except TROUBLES:
            return
        self.samples.append(Sample(at_s, *row))
