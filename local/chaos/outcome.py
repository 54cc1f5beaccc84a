"""A finished run as data: the console's tables, `chaos.json` and the plot are written from it."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from cli.verify_commands import report_as_json
from local.chaos.catalogue import KINDS
from local.chaos.context import Hit
from local.chaos.plan import Plan
from local.chaos.verdict import Verdict
from local.chaos.watch import Sample


@dataclass(frozen=True)
class Outcome:
    """One run. Seconds are machine time; those of hits, samples and receipts count from the first fault."""

    plan: Plan
    hits: list[Hit]
    samples: list[Sample]
    receipts_at_s: list[float]
    verdict: Verdict
    fault_phase_s: float
    drain_phase_s: float
    total_s: float
    virtual_days: int

    def planned(self) -> dict[str, int]:
        """Faults planned, by kind, in the order of the catalogue."""
        counts = self.plan.counts
        return {kind.name: counts[kind.name] for kind in KINDS if counts[kind.name]}

    def hit(self) -> dict[str, int]:
        """Faults that had their effect, by kind."""
        total: Counter[str] = Counter()
        for hit in self.hits:
            total[hit.kind] += hit.count
        return {kind.name: total[kind.name] for kind in KINDS if total[kind.name] or self.plan.counts[kind.name]}

    def metrics(self) -> list[tuple[str, str]]:
        """The run's metrics, as name and text."""
        verdict = self.verdict
        checks = verdict.report.results
        holding = sum(1 for result in checks if result.holds)
        return [
            ("faults planned", f"{len(self.plan.faults):,}"),
            ("faults that hit", f"{sum(self.hit().values()):,}"),
            ("virtual days", f"{self.virtual_days:,}"),
            ("requests to the processor", f"{verdict.requests:,}"),
            ("attempts", _total_and_states(verdict.attempts)),
            ("payments", _total_and_states(verdict.payments)),
            ("captured charges", f"{verdict.captured_charges:,}"),
            ("captured, in minor units", _amounts(verdict.captured_minor)),
            ("double charges", str(verdict.double)),
            ("forgotten payments", str(verdict.forgotten)),
            ("unsettled attempts", str(verdict.unsettled)),
            ("ledger minus receipts, in minor units", _amounts(verdict.differences_minor)),
            ("verify", f"{holding} of {len(checks)} checks hold"),
            ("fault phase", f"{self.fault_phase_s:.0f} s"),
            ("until no work was pending", f"{self.drain_phase_s:.0f} s"),
            ("total", f"{self.total_s:.0f} s"),
        ]

    def summary(self) -> str:
        """The four numbers that must be zero."""
        verdict = self.verdict
        return (
            f"double {verdict.double} · forgotten {verdict.forgotten} · unsettled {verdict.unsettled} · "
            f"difference {_amounts(verdict.differences_minor)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the run as JSON types, plan and samples included."""
        verdict = self.verdict
        return {
            "is_clean": verdict.is_clean,
            "seed": self.plan.seed,
            "plan_digest": self.plan.digest,
            "faults": {"planned": self.planned(), "hit": self.hit()},
            "virtual_days": self.virtual_days,
            "requests": verdict.requests,
            "attempts": verdict.attempts,
            "payments": verdict.payments,
            "captured_charges": verdict.captured_charges,
            "captured_minor": verdict.captured_minor,
            "receipts_minor": verdict.receipts_minor,
            "differences_minor": verdict.differences_minor,
            "double_charges": verdict.double,
            "forgotten_payments": verdict.forgotten,
            "unsettled_attempts": verdict.unsettled,
            "broken": [{"what": b.what, "payments": [str(p) for p in b.payments]} for b in verdict.broken],
            "verify": report_as_json(verdict.report),
            "seconds": {"faults": self.fault_phase_s, "drain": self.drain_phase_s, "total": self.total_s},
            "timeline": {
                "hits": [asdict(hit) for hit in self.hits],
                "samples": [asdict(sample) for sample in self.samples],
                "receipts_at_s": self.receipts_at_s,
            },
            "plan": self.plan.to_json(),
        }


def _total_and_states(counts: dict[str, int]) -> str:
    states = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(counts.items()))
    return f"{sum(counts.values()):,}: {states}"


def _amounts(minor: dict[str, int]) -> str:
    return ", ".join(f"{amount:,} {currency}" for currency, amount in minor.items()) or "0"
