"""`python -m tests.mutation [MODULE]`: mutmut over one module, or over shared/payments and the daily run."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tests.conftest import upgrade
from tests.mutation.plugin import TEMPLATE
from tests.servers import test_servers

ROOT = Path(__file__).resolve().parents[2]
#: mutmut mutates a copy in here, and keeps its results beside it: one folder per module.
FOLDERS = ROOT / "build" / "mutants"
PACKAGES = ("cli", "local", "migrations", "scheduler", "shared", "simulator", "tests", "web", "workers")
COPIED = (*PACKAGES, "billing.toml", "docs")
EVERYTHING = ("shared/payments", "shared/scheduling/daily_run.py")

PAYMENTS = (
    "tests/payments/test_waiting_for_a_card.py",
    "tests/payments/test_two_clocks.py",
    "tests/payments/test_charge_payment.py",
    "tests/payments/test_spent_keys.py",
    "tests/payments/test_missing_answers.py",
    "tests/payments/test_charge_phases.py",
    "tests/payments/test_settlement.py",
)
#: An attempt that cancels: the one thing in a claim that the first five of these don't try.
CANCEL = "tests/payments/test_settlement.py::test_cancel_without_an_answer_is_settled_and_replaced"
CLOSES = ("tests/payments/test_close.py", "tests/payments/test_close_errors.py")
OPERATORS = (
    "tests/payments/test_decisions.py",
    "tests/payments/test_charge_already_requested.py",
    "tests/payments/test_reasons.py",
)
#: The tests of each module: few and fast, because a mutant that survives has run all of them.
SELECTIONS = {
    "shared/payments/cancellation.py": CLOSES,
    "shared/payments/card_changes.py": (
        "tests/accounts/test_card_changed.py",
        "tests/accounts/test_card_registered.py",
    ),
    "shared/payments/claim.py": (*PAYMENTS[:5], CANCEL),
    "shared/scheduling/daily_run.py": ("tests/scheduler/test_retry_payments.py",),
    "shared/payments/network_budgets.py": (*PAYMENTS[2:3], *PAYMENTS[5:6], *OPERATORS[1:2]),
    "shared/payments/operator/charge.py": OPERATORS,
    "shared/payments/operator/close.py": CLOSES,
    "shared/payments/operator/hold.py": OPERATORS,
    "shared/payments/operator/refusals.py": OPERATORS,
    "shared/payments/outages.py": ("tests/payments/test_outage_backoff.py",),
    "shared/payments/outcome_handlers.py": PAYMENTS[2:] + CLOSES[:1],
    "shared/payments/receipts.py": PAYMENTS[4:] + CLOSES[:1],
    "shared/payments/record_outcome.py": PAYMENTS[2:],
    "shared/payments/state_changes.py": PAYMENTS[2:6],
}


def main(
    module: Annotated[str | None, typer.Argument(help="A module or a folder.")] = None,
    tests: Annotated[list[str] | None, typer.Option("--tests", help="Other tests than its selection.")] = None,
    children: Annotated[int, typer.Option(help="How many mutants at once.")] = 2,
) -> None:
    """Mutate a module, run its tests on each mutant, and list those that survive."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that tests and servers end with this process
    modules = EVERYTHING if module is None else (module,)
    folder = FOLDERS / (module or "everything").removesuffix(".py").replace("/", "-")
    prepare(folder, modules, tests or [test for name in modules for test in selection_of(name)])
    with test_servers() as running:
        environment = {
            **os.environ,
            "DATABASE_URL": running.database_url,
            "REDIS_URL": running.redis_url,
            TEMPLATE: running.make_template(upgrade),
            "PYTHONPATH": "",  # the working tree must not come before the mutants
        }
        mutmut = Path(sys.executable).with_name("mutmut")
        subprocess.run([mutmut, "run", "--max-children", str(children)], cwd=folder, env=environment, check=True)
        subprocess.run([mutmut, "results"], cwd=folder, env=environment, check=True)


def selection_of(module: str) -> Sequence[str]:
    """The tests of a module, or of all modules in a folder. Exits 2 if it has none."""
    found = [
        test
        for name, tests in SELECTIONS.items()
        if name == module or name.startswith(f"{module}/")
        for test in tests
    ]
    if not found:
        print(f"No tests are selected for {module}: name them with --tests.", file=sys.stderr)
        raise typer.Exit(2)
    return list(dict.fromkeys(found))


def prepare(folder: Path, modules: Sequence[str], selection: Sequence[str]) -> None:
    """Copy the working tree, and configure mutmut there for these modules."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in (*COPIED, "pyproject.toml"):
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    project = folder / "pyproject.toml"
    project.write_text(re.sub(r"(?ms)^\[tool\.mutmut\].*?(?=^\[)", "", project.read_text()))
    settings = {
        "source_paths": sorted({module.partition("/")[0] for module in modules}),
        "only_mutate": [module if module.endswith(".py") else f"{module}/*" for module in modules],
        "also_copy": COPIED,
        "pytest_add_cli_args": ["-p", "tests.mutation.plugin", "-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": selection,
        "track_dependencies": ["false"],
    }
    lines = [f"{name} =\n" + "".join(f"    {value}\n" for value in values) for name, values in settings.items()]
    (folder / "setup.cfg").write_text("[mutmut]\n" + "".join(lines))


if __name__ == "__main__":
    typer.run(main)
