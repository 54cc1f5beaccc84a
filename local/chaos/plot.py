"""The plot of a run, as SVG: captured charges, open attempts and pending work over time, and when faults hit."""

from pathlib import Path
from typing import Any

from local.chaos.catalogue import BY_NAME, Group
from local.chaos.outcome import Outcome

#: Told apart by the colour-blind (Okabe–Ito), on white.
_COLOURS = ("#0079c1", "#d55e00", "#00976e", "#c78a00")


def write_plot(outcome: Outcome, path: Path) -> None:
    """Draw one line per metric, and a tick for every moment in which faults hit, a row per group of faults."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    receipts = sorted(outcome.receipts_at_s)
    at = [sample.at_s for sample in outcome.samples]
    end_s = outcome.fault_phase_s + outcome.drain_phase_s
    lines: list[tuple[str, list[float], list[int]]] = [
        ("captured charges", [0.0, *receipts, end_s], [0, *range(1, len(receipts) + 1), len(receipts)]),
        ("attempts with unknown outcome", at, [sample.unknown for sample in outcome.samples]),
        ("payments due or backing off", at, [sample.due for sample in outcome.samples]),
        ("Stripe events not applied", at, [sample.stripe_events for sample in outcome.samples]),
    ]
    style: Any = {"svg.hashsalt": "duecourse", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure, (metrics, faults) = plt.subplots(2, 1, sharex=True, figsize=(10.5, 5.5), height_ratios=(2, 1))
        for (label, seconds, counts), colour in zip(lines, _COLOURS, strict=True):
            metrics.step(seconds, counts, where="post", label=label, color=colour, linewidth=1.1)
        metrics.set_ylim(bottom=0)
        metrics.set_ylabel("rows")
        metrics.legend(loc="upper left", frameon=False, fontsize=8)
        hits = [[hit.at_s for hit in outcome.hits if BY_NAME[hit.kind].group is group] for group in Group]
        faults.eventplot(hits, linewidths=0.7, linelengths=0.8, colors="#555555")
        faults.set_yticks(range(len(Group)), [str(group) for group in Group], fontsize=8)
        faults.set_title("Faults that hit", loc="left", fontsize=9)
        faults.set_xlabel("seconds since the start of the fault phase (dashed line: its end)")
        faults.set_xlim(0, end_s + 1)
        for axes in (metrics, faults):
            axes.axvline(outcome.fault_phase_s, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
