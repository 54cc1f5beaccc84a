"""Values cached for a few seconds and computed by one thread at a time, however many users ask at once."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

Value = TypeVar("Value")

#: No user sees metrics older than this (machine time, counted from the start of their computation).
MAX_AGE = timedelta(seconds=10)
#: Metrics older than this are returned and refreshed in the background: a page that refreshes itself every 5 s
#: never waits for them.
REFRESH_AFTER = timedelta(seconds=4)


@dataclass(frozen=True)
class _Entry(Generic[Value]):
    value: Value
    at: datetime


class CachedValue(Generic[Value]):
    """`get` computes the value or returns the cached one; callers wait while there is none."""

    def __init__(self, max_age: timedelta = MAX_AGE, refresh_after: timedelta = REFRESH_AFTER) -> None:
        self._max_age, self._refresh_after = max_age, refresh_after
        self._entry: _Entry[Value] | None = None
        self._lock = threading.Lock()

    def get(self, now: Callable[[], datetime], make: Callable[[], Value]) -> Value:
        """Return a value below the maximum age. Errors of `make` are raised; the next caller tries again."""
        entry = self._entry
        if entry is None or not self._is_within(self._max_age, entry, now()):
            with self._lock:
                entry = self._entry
                if entry is None or not self._is_within(self._max_age, entry, now()):
                    entry = self._make(now, make)
        elif not self._is_within(self._refresh_after, entry, now()) and self._lock.acquire(blocking=False):
            threading.Thread(target=self._refresh, args=(now, make), name="metrics", daemon=True).start()
        return entry.value

    def _make(self, now: Callable[[], datetime], make: Callable[[], Value]) -> _Entry[Value]:
        at = now()
        self._entry = _Entry(make(), at)
        return self._entry

    def _refresh(self, now: Callable[[], datetime], make: Callable[[], Value]) -> None:
        """Refresh in the background. After an error, the next caller with a too old value computes it."""
        try:
            self._make(now, make)
        except Exception as error:  # whatever it is, it is raised to the next caller
            log.warning("dashboard.metrics_not_refreshed", error=type(error).__name__)
        finally:
            self._lock.release()

    @staticmethod
    def _is_within(limit: timedelta, entry: _Entry[Value], now: datetime) -> bool:
        """A value from the future (the clock was set back) counts as too old."""
        return timedelta(0) <= now - entry.at <= limit


class PlotCache:
    """PlotCache plots by name, theme and version; the oldest are dropped."""

    def __init__(self, at_most: int = 64) -> None:
        self._at_most = at_most
        self._plots: dict[tuple[str, ...], str] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...], draw: Callable[[], str]) -> str:
        """Return the plot, drawn if needed; one at a time, since matplotlib's settings are global."""
        plot = self._plots.get(key)
        if plot is None:
            with self._lock:
                plot = self._plots.get(key)
                if plot is None:
                    plot = draw()
                    while len(self._plots) >= self._at_most:
                        del self._plots[next(iter(self._plots))]
                    self._plots[key] = plot
        return plot
