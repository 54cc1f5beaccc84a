"""The run as one HTML page that needs nothing else: verdict, timeline, tables."""

from collections.abc import Iterable, Sequence
from html import escape

from local.chaos.kinds import BY_NAME
from local.chaos.outcome import Outcome
from local.chaos.plots import timeline

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #5c6570; --line: #d9dee4;
        --good: #137a4b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --paper: #14171b; --faint: #9aa4af; --line: #30363d; --good: #56c98f; --bad: #ff8a80; }
}
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; background: var(--paper); color: var(--ink);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .75rem; }
p { margin: .25rem 0; } .faint { color: var(--faint); }
.verdict { font-size: 1.15rem; font-weight: 600; margin: 1rem 0 1.5rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
code { font: .85em ui-monospace, monospace; }
"""


def write_page(outcome: Outcome) -> str:
    """Return the page."""
    verdict = outcome.verdict
    differences = ", ".join(f"{value} {name}" for name, value in verdict.differences_minor.items()) or "0"
    words = (
        f"double {verdict.double} · forgotten {verdict.forgotten} · unsettled {verdict.unsettled} · "
        f"difference {differences}"
    )
    broken = "".join(f"<p class=bad>{escape(each.what)}</p>" for each in verdict.broken)
    command = f"make chaos FAULTS={len(outcome.plan.faults)} SEED={outcome.plan.seed}"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Duecourse under fire</title><style>{_STYLE}</style>
<h1>Duecourse under fire</h1>
<p class="faint">{sum(outcome.hit().values()):,} faults in {outcome.let_go_s:.0f} seconds, over
{outcome.virtual_days:,} virtual days. Again: <code>{escape(command)}</code>
(plan <code>{outcome.plan.digest}</code>)</p>
<p class="verdict {"good" if verdict.is_clean else "bad"}">{escape(words)}</p>{broken}
<div class="scroll">{timeline(outcome)}</div>
<h2>Figures</h2>{_table((), outcome.figures())}
<h2>Faults by kind</h2>{_kinds(outcome)}
<h2>Audit</h2>{_audit(outcome)}
</html>
"""


def _kinds(outcome: Outcome) -> str:
    planned = outcome.planned()
    rows, group = [], None
    for name, hit in outcome.hit().items():
        kind = BY_NAME[name]
        struck = "" if kind.group is group else str(kind.group)
        rows.append((struck, name.replace("_", " "), kind.does, f"{planned.get(name, 0):,}", f"{hit:,}"))
        group = kind.group
    return _table(("struck", "kind", "what happens", "planned", "hit"), rows, numbers=(3, 4))


def _audit(outcome: Outcome) -> str:
    rows = (
        (
            result.check.name,
            result.check.promise,
            f"{result.looked_at:,}",
            f"{result.broken:,}",
            "holds" if result.holds else "not checked" if result.not_checked else "BROKEN",
        )
        for result in outcome.verdict.report.results
    )
    return _table(("check", "what must hold", "rows", "breaks", "verdict"), rows, numbers=(2, 3))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    def cell(tag: str, column: int, words: str) -> str:
        number = ' class="number"' if column in numbers else ""
        return f"<{tag}{number}>{escape(words)}</{tag}>"

    head = "".join(cell("th", column, words) for column, words in enumerate(header))
    body = "".join(
        "<tr>" + "".join(cell("td", column, words) for column, words in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table>{f"<tr>{head}</tr>" if head else ""}{body}</table></div>'
