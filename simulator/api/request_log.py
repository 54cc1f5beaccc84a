"""The request log for benchmarks and tests: counts by endpoint, and the last requests with their arrival."""

from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any

CUT = 0  # the status of a request whose connection was cut before any answer
KEPT = 20_000  # requests; about 5 MB, and more than any benchmark reads back


@dataclass(frozen=True, slots=True)
class Seen:
    arrived_ns: int
    method: str
    path: str
    account: str | None
    idempotency_key: str | None
    status: int
    is_replay: bool


class RequestLog:
    """Bounded and in memory only."""

    def __init__(self) -> None:
        self._last: deque[Seen] = deque(maxlen=KEPT)
        self._counts: Counter[str] = Counter()

    def note(
        self,
        arrived_ns: int,
        method: str,
        path: str,
        account: str | None,
        idempotency_key: str | None,
        status: int,
        is_replay: bool,
    ) -> None:
        self._last.append(Seen(arrived_ns, method, path, account, idempotency_key, status, is_replay))
        self._counts[f"{method} {_shape(path)}"] += 1

    def counts(self) -> dict[str, int]:
        return dict(sorted(self._counts.items()))

    def last(self, limit: int, path_contains: str | None = None) -> list[dict[str, Any]]:
        """The last `limit` requests, oldest first."""
        found: list[Seen] = []
        for seen in reversed(self._last):
            if len(found) == limit:
                break
            if path_contains is None or path_contains in seen.path:
                found.append(seen)
        return [asdict(seen) for seen in reversed(found)]


def _shape(path: str) -> str:
    segments = path.split("/")
    segments[3::2] = [":id"] * len(segments[3::2])
    return "/".join(segments)
