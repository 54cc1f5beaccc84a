"""One chunk of a reconciliation: the input of every phase and the results to be written."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from shared.db.billing_events import Cause
from shared.gateway.port import StripeEventSnapshot
from shared.reconciliation.classify import Found
from shared.reconciliation.client import Processor
from shared.reconciliation.window import Window
from shared.runtime import Runtime

#: Rows of ours checked in one chunk: as many as the processor's largest page holds.
CHUNK = 100
#: Findings written per kind in one reconciliation. All are counted. More than this have one cause (another Stripe
#: account, another database), and the first rows show it. The next reconciliation finds the rest again.
ROWS_OF_A_KIND = 1_000


@dataclass(frozen=True)
class Reconciliation:
    """One coverage's reconciliation. `id` is its run's id, or a new one; billing events name `actor`."""

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
    """A finding that reconciliation resolved by itself, with the resolution's text."""

    kind: str
    subject: str
    resolution: str
    counted_as: str


@dataclass
class Chunk:
    """What a chunk found and did. The next chunk starts at `after`; None ends the phase."""

    after: str | None
    counts: Counter[str] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)
    resolved: list[Resolved] = field(default_factory=list)
    #: Events on the processor's list; those that we don't have yet are stored.
    events: list[StripeEventSnapshot] = field(default_factory=list)
    #: Ids of charges on the processor's list.
    listed: list[str] = field(default_factory=list)
    #: PaymentIntents that we canceled: Stripe's id and the cancellation reason that the processor shows.
    canceled: dict[str, str | None] = field(default_factory=dict)

    def found_by_kind(self) -> Mapping[str, int]:
        return Counter(str(one.kind) for one in self.found)
