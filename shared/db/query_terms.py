"""The terms of queries that are built once: words as literals, both clocks as bind parameters.

A query with a word as a parameter may get a generic plan, which can't use a partial index. Instants are parameters,
so that a query is executed at any moment.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, DateTime, and_, bindparam, literal, or_

from shared.clock import FARTHEST_AHEAD
from shared.domain.calendar import UNTIL_RELEASED

#: The webhook enqueues a stored event itself; before this age the sweep would only duplicate it.
WEBHOOK_ENQUEUES_WITHIN = timedelta(seconds=2)
#: The daily run stamps payments scheduled for retry before they are charged. If it makes no progress for this time
#: (machine time) it is stuck, and the payments are charged without it.
DAILY_RUN_STAMPS_WITHIN = timedelta(minutes=10)

#: The bind parameters of the queries; `Moment.parameters` gives the values.
NOW = bindparam("now", type_=DateTime(timezone=True))
MACHINE_NOW = bindparam("machine_now", type_=DateTime(timezone=True))
STORED_BEFORE = bindparam("stored_before", type_=DateTime(timezone=True))
STAMPING_SINCE = bindparam("stamping_since", type_=DateTime(timezone=True))
#: An instant beyond this was written by a clock that ran ahead (`has_come`), up to UNTIL_RELEASED.
TOO_FAR = bindparam("too_far", type_=DateTime(timezone=True))

#: From here on an instant waits for an operator; a literal, so that raw drivers run the compiled queries too.
WAITS_FOR_OPERATOR: ColumnElement[datetime] = literal(UNTIL_RELEASED, DateTime(timezone=True), literal_execute=True)


@dataclass(frozen=True)
class Moment:
    """Both clocks at one instant, for the queries."""

    now: datetime
    machine_now: datetime

    def parameters(self, webhook_enqueues_within: timedelta = WEBHOOK_ENQUEUES_WITHIN) -> dict[str, datetime]:
        """Return the parameters of all due-work queries."""
        return {
            "now": self.now,
            "machine_now": self.machine_now,
            "stored_before": self.machine_now - webhook_enqueues_within,
            "stamping_since": self.machine_now - DAILY_RUN_STAMPS_WITHIN,
            "too_far": self.machine_now + FARTHEST_AHEAD,
        }


def has_come(column: Column[Any]) -> ColumnElement[bool]:
    """Whether an instant of machine time has come: `shared.clock.has_come` as SQL."""
    return or_(column <= MACHINE_NOW, and_(column > TOO_FAR, column < WAITS_FOR_OPERATOR))


def one_of(column: Column[Any], words: Iterable[str]) -> ColumnElement[bool]:
    """`column IN (…)` with literals, which partial indexes need."""
    return column.in_([literal(str(word), literal_execute=True) for word in sorted(words)])


def one_of_not(column: Column[Any], words: Iterable[str]) -> ColumnElement[bool]:
    """`column NOT IN (…)` with literals."""
    return column.not_in([literal(str(word), literal_execute=True) for word in sorted(words)])


def is_(column: Column[Any], word: str) -> ColumnElement[bool]:
    """`column = …` with a literal."""
    return column == literal(str(word), literal_execute=True)
