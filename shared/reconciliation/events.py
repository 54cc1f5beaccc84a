"""Finds the processor's events that were never delivered, and stores them as their webhooks would have.

Stripe resends an event for three days and keeps it for thirty. A list is a hint like a webhook: an event that comes
twice is stored once, and the object's present state decides.
"""

from datetime import datetime, timedelta

from shared.reconciliation.chunk import Chunk, Reconciliation
from shared.reconciliation.classify import Found, Kind
from shared.reconciliation.window import AFTER, BEFORE

#: Stripe lists events for 30 days (docs.stripe.com/api/events); an hour less, as its clock may be ahead of ours.
LISTED_FOR = timedelta(days=30) - timedelta(hours=1)


def list_events(reconciliation: Reconciliation, events_from: datetime | None, after: str | None) -> Chunk:
    """List one page of events from the last reconciliation's end on, or all that are kept if there was none."""
    oldest = reconciliation.runtime.clock.now() - LISTED_FOR
    begins_at = oldest if events_from is None else max(events_from - BEFORE, oldest)
    ends_at = reconciliation.window.ends_at + AFTER
    if begins_at >= ends_at:
        return Chunk(None)
    page = reconciliation.processor.events((begins_at, ends_at), after)
    chunk = Chunk(page.after, events=list(page.items))
    chunk.counts["events"] = len(page.items)
    if after is None and reconciliation.run_id is not None:  # an operator's days say themselves what they cover
        chunk.found.extend(_not_listed(reconciliation, events_from, oldest))
    return chunk


def _not_listed(reconciliation: Reconciliation, events_from: datetime | None, oldest: datetime) -> list[Found]:
    """Tell an operator from when to when no events can be listed any more.

    A new installation lacks only what an account that was in use before has: one without customers so old has none.
    """
    if events_from is None:
        if not reconciliation.processor.was_in_use_before(oldest):
            return []
    elif events_from >= oldest:
        return []
    details = {
        "events_from": None if events_from is None else events_from.isoformat(timespec="seconds"),
        "events_until": oldest.isoformat(timespec="seconds"),
    }
    return [Found(Kind.STRIPE_EVENTS_NOT_LISTED, f"until {oldest:%Y-%m-%d}", details)]
