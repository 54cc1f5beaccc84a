"""Every `duecourse …` that a document names is a command, under its present name."""

import re
from collections.abc import Iterator
from inspect import signature

import typer

from cli.main import app
from local.demo.command import demo
from local.demo.customers import LAST_DAY, SECOND, make_customers
from simulator.issuer.stories import InsufficientFundsUntil
from tests.docs.names import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
#: A command in backticks or at the start of a line of code; prose says Duecourse.
NAMED = re.compile(r"(?:^|`)duecourse ([a-z-]+)(?: ([a-z-]+))?", re.MULTILINE)


def commands() -> set[str]:
    """Return the commands that the help shows, and each command of a group with its group."""

    def walk() -> Iterator[str]:
        for command in app.registered_commands:
            if command.name and not command.hidden:
                yield command.name
        for group in app.registered_groups:
            inner = group.typer_instance
            assert isinstance(inner, typer.Typer)
            for command in inner.registered_commands:
                yield f"{group.name} {command.name or getattr(command.callback, '__name__', '')}"

    return set(walk())


def test_every_command_that_is_named_exists() -> None:
    known = commands()
    groups = {name.split()[0] for name in known if " " in name}
    named = {match for page in PAGES for match in NAMED.findall(page.read_text("utf-8"))}
    assert len(named) > 15
    assert {f"{group} {name}" if group in groups and name else group for group, name in named} <= known | groups


def test_readme_shows_a_payment_of_the_demo_that_declined_last_month() -> None:
    (account,) = re.findall(
        r"^duecourse payment show (demo-[0-9]+) ", (ROOT / "README.md").read_text("utf-8"), re.M
    )
    number, seed = int(account.removeprefix("demo-")), signature(demo).parameters["seed"].default
    customer = make_customers(number, seed)[-1]
    assert customer.external_id == account
    assert customer.services, "invoiced each month"
    assert isinstance(customer.story, InsufficientFundsUntil)
    assert SECOND.next.first_day < customer.story.date < LAST_DAY, "the latest payment declined, then paid"
