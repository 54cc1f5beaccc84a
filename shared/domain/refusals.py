"""A refusal: why a request is not followed, and what to do instead."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Refused:
    """Why a request isn't followed, what to do instead, and when it may be (business time), where that is known."""

    reason: str
    what_to_do: str
    free_at: datetime | None = None


NO_REASON = Refused("no reason was given", "say why; the reason is kept in the trail")
