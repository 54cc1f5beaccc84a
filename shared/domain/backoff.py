"""Waits that double with each try, up to a maximum."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Backoff:
    """The wait after the first try, and the maximum wait; it doubles in between."""

    first: timedelta
    longest: timedelta

    def after(self, tries: int) -> timedelta:
        """Return the wait after this many tries in a row, from 1."""
        enough = (self.longest // self.first).bit_length()  # this many doublings reach the maximum
        doublings = max(0, min(tries - 1, enough))
        return min(self.longest, self.first * (1 << doublings))
