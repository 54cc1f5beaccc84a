"""An answer that is kept for some seconds, and made by one at a time: however many people look at once."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

Value = TypeVar("Value")

#: Nobody sees figures older than this (machine time, from the moment when they began to be gathered).
KEPT_FOR = timedelta(seconds=10)


@dataclass(frozen=True)
class _Answer(Generic[Value]):
    value: Value
    at: datetime


class Kept(Generic[Value]):
    """`get` makes the value or returns the kept one; who comes while it is made waits for it."""

    def __init__(self, kept_for: timedelta = KEPT_FOR) -> None:
        self._kept_for = kept_for
        self._answer: _Answer[Value] | None = None
        self._making = threading.Lock()

    def get(self, now: Callable[[], datetime], make: Callable[[], Value]) -> Value:
        """Return a value no older than it may be. What `make` raises is raised, and the next one tries again."""
        answer = self._answer
        if answer is None or not self._is_young(answer, now()):
            with self._making:
                answer = self._answer
                if answer is None or not self._is_young(answer, now()):
                    at = now()
                    answer = self._answer = _Answer(make(), at)
        return answer.value

    def _is_young(self, answer: _Answer[Value], now: datetime) -> bool:
        """A clock that was set back makes nothing young."""
        return timedelta(0) <= now - answer.at <= self._kept_for


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
