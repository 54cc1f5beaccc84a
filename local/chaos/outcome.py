"""A finished run as data: what the report on the terminal, `chaos.json` and the page are written from."""

from dataclasses import asdict, dataclass
from typing import Any

from cli.verify_commands import report_as_json
from local.chaos.context import Hit
from local.chaos.kinds import KINDS
from local.chaos.plan import Plan
from local.chaos.verdict import Verdict
from local.chaos.watch import Sample


@dataclass(frozen=True)
class Outcome:
    """Everything worth keeping. Seconds are of the machine's time, `booked_s` counts from the fire's beginning."""

    plan: Plan
    hits: list[Hit]
    samples: list[Sample]
    booked_s: list[float]
    verdict: Verdict
    let_go_s: float
    quiet_s: float
    total_s: float
    virtual_days: int

    def planned(self) -> dict[str, int]:
        """Faults planned, by kind, in the order of the table of kinds."""
        counts = self.plan.counts
        return {kind.name: counts[kind.name] for kind in KINDS if counts[kind.name]}

    def hit(self) -> dict[str, int]:
        """Faults that landed, by kind."""
        total = {kind.name: 0 for kind in KINDS}
        for hit in self.hits:
            total[hit.kind] += hit.count
        return {name: count for name, count in total.items() if count or self.plan.counts[name]}

    def figures(self) -> list[tuple[str, str]]:
        """The figures that matter, as name and words."""
        verdict = self.verdict
        differences = ", ".join(f"{value} {name}" for name, value in verdict.differences_minor.items()) or "0"
        captured = ", ".join(f"{value:,} {name}" for name, value in verdict.captured_minor.items())
        checks = verdict.report.results
        holding = sum(1 for result in checks if result.holds)
        return [
            ("faults planned", f"{len(self.plan.faults):,}"),
            ("faults that hit", f"{sum(self.hit().values()):,}"),
            ("virtual days", f"{self.virtual_days:,}"),
            ("requests to the processor", f"{verdict.requests:,}"),
            ("attempts", f"{sum(verdict.attempts.values()):,}: {_list(verdict.attempts)}"),
            ("payments", f"{sum(verdict.payments.values()):,}: {_list(verdict.payments)}"),
            ("captured charges", f"{verdict.captured_charges:,}"),
            ("captured, in minor units", captured or "0"),
            ("double charges", str(verdict.double)),
            ("forgotten payments", str(verdict.forgotten)),
            ("unsettled attempts", str(verdict.unsettled)),
            ("ledger minus receipts, in minor units", differences),
            ("verify", f"{holding} of {len(checks)} checks hold"),
            ("fire", f"{self.let_go_s:.0f} s"),
            ("from letting go to quiet", f"{self.quiet_s:.0f} s"),
            ("all in all", f"{self.total_s:.0f} s"),
        ]

    def to_json(self) -> dict[str, Any]:
        """The run as what JSON can hold, plan and samples included."""
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
            "seconds": {"fire": self.let_go_s, "to_quiet": self.quiet_s, "total": self.total_s},
            "timeline": {
                "hits": [asdict(hit) for hit in self.hits],
                "samples": [sample.to_json() for sample in self.samples],
                "booked_s": self.booked_s,
            },
            "plan": self.plan.to_json(),
        }


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(counts.items()))
