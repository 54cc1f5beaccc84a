"""An answer that is kept for some seconds, and made by one at a time: however many people look at once."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

Value = TypeVar("Value")

#: Nobody sees figures older than this (machine time, from the moment when they began to be gathered).
KEPT_FOR = timedelta(seconds=10)
#: Who sees figures older than this has them made anew behind their back: a page that refreshes itself every 5 s
#: never waits for them.
RENEWED_AFTER = timedelta(seconds=4)


@dataclass(frozen=True)
class _Answer(Generic[Value]):
    value: Value
    at: datetime


class CachedValue(Generic[Value]):
    """`get` makes the value or returns the kept one; who comes while there is none waits for it."""

    def __init__(self, kept_for: timedelta = KEPT_FOR, renewed_after: timedelta = RENEWED_AFTER) -> None:
        self._kept_for, self._renewed_after = kept_for, renewed_after
        self._answer: _Answer[Value] | None = None
        self._making = threading.Lock()

    def get(self, now: Callable[[], datetime], make: Callable[[], Value]) -> Value:
        """Return a value no older than it may be. What `make` raises is raised, and the next one tries again."""
        answer = self._answer
        if answer is None or not self._is_within(self._kept_for, answer, now()):
            with self._making:
                answer = self._answer
                if answer is None or not self._is_within(self._kept_for, answer, now()):
                    answer = self._make(now, make)
        elif not self._is_within(self._renewed_after, answer, now()) and self._making.acquire(blocking=False):
            threading.Thread(target=self._renew, args=(now, make), name="figures", daemon=True).start()
        return answer.value

    def _make(self, now: Callable[[], datetime], make: Callable[[], Value]) -> _Answer[Value]:
        at = now()
        self._answer = _Answer(make(), at)
        return self._answer

    def _renew(self, now: Callable[[], datetime], make: Callable[[], Value]) -> None:
        """Nobody waits for this one: who finds the kept answer too old afterwards makes it, and is told why not."""
        try:
            self._make(now, make)
        except Exception as error:  # whatever it is, it will be raised to the next who asks
            log.warning("dashboard.figures_not_renewed", error=type(error).__name__)
        finally:
            self._making.release()

    @staticmethod
    def _is_within(limit: timedelta, answer: _Answer[Value], now: datetime) -> bool:
        """A clock that was set back makes nothing young."""
        return timedelta(0) <= now - answer.at <= limit


class Drawn:
    """Plots by name, theme and what they show; the least lately drawn are forgotten."""

    def __init__(self, at_most: int = 64) -> None:
        self._at_most = at_most
        self._plots: dict[tuple[str, ...], str] = {}
        self._drawing = threading.Lock()

    def get(self, key: tuple[str, ...], draw: Callable[[], str]) -> str:
        """Return the plot, drawing it if need be; one at a time, since matplotlib's settings are the process's."""
        plot = self._plots.get(key)
        if plot is None:
            with self._drawing:
                plot = self._plots.get(key)
                if plot is None:
                    plot = draw()
                    while len(self._plots) >= self._at_most:
                        del self._plots[next(iter(self._plots))]
                    self._plots[key] = plot
        return plot
