"""Waits that double with each try, up to a longest one."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Backoff:
    """The wait after the first try, and the longest wait; doubling in between."""

    first: timedelta
    longest: timedelta

    def after(self, tries: int) -> timedelta:
        """Return the wait after so many tries in a row, from 1."""
        enough = (self.longest // self.first).bit_length()  # so many doublings reach the longest wait
        doublings = max(0, min(tries - 1, enough))
        return min(self.longest, self.first * (1 << doublings))
