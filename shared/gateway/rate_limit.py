"""Keeps one process below its share of the processor's rate limit, so that 429 stays rare."""

import threading
import time
from collections.abc import Callable


class RateLimit:
    """Allows `per_s` calls a second, in order of arrival; a burst of one second's worth may go at once."""

    def __init__(
        self,
        per_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gap_s = 1.0 / per_s
        self._burst_s = 1.0
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next_s = monotonic()

    def wait(self) -> None:
        """Return when the caller may send its request."""
        with self._lock:
            now = self._monotonic()
            slot = max(self._next_s, now - self._burst_s)
            self._next_s = slot + self._gap_s
        if slot > now:
            self._sleep(slot - now)
