"""A refusal: why a request is rejected, and what to do instead."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Refused:
    """Why a request is refused, what to do instead, and when it is possible (business time), if that is known."""

    reason: str
    what_to_do: str
    free_at: datetime | None = None


NO_REASON = Refused("no reason was given", "give a reason; the audit log keeps it")
