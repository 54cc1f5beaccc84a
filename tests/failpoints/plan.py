"""Which file crashes at which points: by the first word of their names, so that a new one is taken by itself."""

from shared.failpoints import Failpoint

CHARGES, RECORDS, EVENTS, RUNS, DECISIONS, WEB = "charges", "records", "events", "runs", "decisions", "web"

#: The families of each file. Each is a quarter of all stories; those of the web process take a real process each.
PLAN: dict[str, frozenset[str]] = {
    CHARGES: frozenset({"charge"}),
    RECORDS: frozenset({"record", "settle", "reconcile"}),
    EVENTS: frozenset({"event"}),
    RUNS: frozenset({"generate", "run", "retry", "lead", "tick", "sweep", "wake"}),
    DECISIONS: frozenset({"end", "bulk"}),
    WEB: frozenset({"webhook"}),
}


#: Points that are crashed at once more where money moves, at the third arrival: the first two are a decline and a
#: bank that wants its customer.
WHERE_MONEY_MOVES = frozenset(
    {
        Failpoint.CHARGE_CLAIMED,
        Failpoint.CHARGE_CREATE_SENT,
        Failpoint.CHARGE_CONFIRM_ALLOWED,
        Failpoint.CHARGE_CONFIRM_SENDING,
        Failpoint.CHARGE_CONFIRM_SENT,
        Failpoint.RECORD_ANSWER_BEFORE_COMMIT,
    }
)
THIRD = 3


def points_of(group: str) -> list[Failpoint]:
    """The points of one file, sorted: every pytest worker must see the same list."""
    return sorted(point for point in Failpoint if point.partition(".")[0] in PLAN[group])
