"""The global rate limit of an account, as docs.stripe.com/rate-limits describes it. Off unless it is set.

Stripe's limits are 100 requests a second in live mode and 25 in a sandbox, per account, over all endpoints.
Requests above get 429 with `Stripe-Rate-Limited-Reason: global-rate`; they are not applied and not saved.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from simulator.api.errors import ApiError
from simulator.faults.answers import rate_limited


def rate_per_second(given: float) -> float:
    """Check a limit. Raises ValueError unless it is finite and above 0."""
    if not (math.isfinite(given) and given > 0):
        raise ValueError(f"a rate limit is a number of requests per second above 0, not {given}")
    return given


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


@dataclass
class RateLimit:
    """A token bucket per account in machine time: `per_second` requests a second, and as many in one burst."""

    per_second: float | None = None
    monotonic: Callable[[], float] = time.monotonic
    refused: int = 0
    _buckets: dict[str, _Bucket] = field(default_factory=dict)

    def set(self, per_second: float | None) -> None:
        """Change the limit (requests per second; None: no limit). Buckets start full."""
        self.per_second = per_second
        self._buckets.clear()

    def admit(self, account: str) -> None:
        """Admit a request, or raise ApiError (429)."""
        if self.per_second is None:
            return
        now, size = self.monotonic(), max(self.per_second, 1.0)
        bucket = self._buckets.setdefault(account, _Bucket(size, now))
        bucket.tokens = min(size, bucket.tokens + (now - bucket.filled_at) * self.per_second)
        bucket.filled_at = now
        if bucket.tokens < 1:
            self.refused += 1
            raise ApiError(rate_limited(), is_saved=False)
        bucket.tokens -= 1
