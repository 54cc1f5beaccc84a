"""Ids like Stripe's: a prefix, a part that grows with time, and a random part.

The growing part keeps rows that are created together on the same pages of every index, which makes inserts cheap.
It never repeats: it is the machine's clock in nanoseconds, incremented if two ids fall into one nanosecond.
"""

import os
import time

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]
_AS_DIGITS = bytes(ord(_DIGITS[byte % 62]) for byte in range(256))


class IdMint:
    """Makes ids. One per process."""

    def __init__(self) -> None:
        self._last_ns = 0

    def new(self, prefix: str) -> str:
        """Return a fresh id such as `pi_028chsWhnBm3sQdDdsDNi4`."""
        self._last_ns = max(self._last_ns + 1, time.time_ns())
        return f"{prefix}_{instant_part(self._last_ns)}{os.urandom(10).translate(_AS_DIGITS).decode()}"


def instant_part(time_ns: int) -> str:
    """The part of an id that grows with time; ids of one kind sort by it."""
    return base62(time_ns, 6)


def base62(number: int, pairs: int) -> str:
    """Write the low digits of `number` in base 62 with ASCII order, `pairs` pairs of digits wide."""
    parts = []
    for _ in range(pairs):
        number, low = divmod(number, 3844)
        parts.append(_PAIRS[low])
    return "".join(reversed(parts))
