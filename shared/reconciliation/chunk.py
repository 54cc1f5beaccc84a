"""One chunk of a reconciliation: what every phase works with, and what it hands on to be written."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from shared.db.billing_events import Cause
from shared.reconciliation.classify import Found
from shared.reconciliation.client import Processor
from shared.reconciliation.window import Window
from shared.runtime import Runtime

#: Rows of ours looked at in one chunk: as many as the processor's largest page holds.
CHUNK = 100
#: Rows written of one kind in one reconciliation. All are counted; whoever has more has one cause (another Stripe
#: account, another database), and reads the first. The rest are found again by the next reconciliation.
ROWS_OF_A_KIND = 1_000


@dataclass(frozen=True)
class Reconciliation:
    """One coverage's reconciliation. `id` is its run's, or one of its own; `actor` is named in the trail."""

    id: UUID
    coverage: str
    window: Window
    runtime: Runtime
    processor: Processor
    actor: str
    run_id: UUID | None = None

    def cause(self, reason: str) -> Cause:
        return Cause(self.actor, self.runtime.clock.now(), reason, run_id=self.run_id)


@dataclass(frozen=True)
class Resolved:
    """A finding that the machine put right itself, and in which words."""

    kind: str
    subject: str
    resolution: str
    counted_as: str


@dataclass
class Chunk:
    """What a chunk saw and did. `after` is where the next one starts; None: the phase is over."""

    after: str | None
    counts: Counter[str] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)
    resolved: list[Resolved] = field(default_factory=list)
    #: Ids of charges that the processor's list showed.
    listed: list[str] = field(default_factory=list)
    #: PaymentIntents that we canceled, by Stripe's id, with the reason that the processor shows.
    canceled: dict[str, str | None] = field(default_factory=dict)

    def found_by_kind(self) -> Mapping[str, int]:
        return Counter(str(one.kind) for one in self.found)
