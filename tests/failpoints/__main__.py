"""`python -m tests.failpoints [--every] [POINT …]`: crash at every point, and print the table of what came of it.

Without `--every` at the first arrival at each point, with it at each arrival in turn: an hour instead of minutes.
Exits 1 if a point isn't reached, or if at a story's end anybody could tell that there was a crash.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import Engine, create_engine

from shared.failpoints import Failpoint
from tests.conftest import sqlalchemy_url, upgrade
from tests.failpoints.company import settings_of_web
from tests.failpoints.plan import WEB, points_of
from tests.failpoints.processes import KILLED, environment_of, restarted_web
from tests.failpoints.stories import story_of
from tests.failpoints.story import Lived, live
from tests.servers import Servers, test_servers

LINE = "{:<34} {:<16} {:>8} {:>6} {:>7}  {}"
HELD = "held: each paid once, nothing open, records equal"


@dataclass(frozen=True)
class Row:
    """What came of one crash."""

    point: Failpoint
    how: str
    arrival: int
    lives: int
    seconds: float
    result: str


@contextmanager
def fresh_engine(servers: Servers, template: str) -> Iterator[tuple[Engine, str]]:
    with servers.fresh_database(template) as url:
        engine = create_engine(sqlalchemy_url(url))
        try:
            yield engine, url
        finally:
            engine.dispose()


def crash_in_process(servers: Servers, template: str, point: Failpoint, arrival: int) -> Row:
    """Live the point's story with a crash in this process."""
    began, lived = time.monotonic(), None
    try:
        with fresh_engine(servers, template) as (engine, url):
            lived = live(story_of(point), engine, url, point, arrival)
        result = _verdict(lived)
    except AssertionError as error:
        result = f"BROKEN: {str(error).splitlines()[0] if str(error) else 'see the test of this point'}"
    return Row(point, "exception", arrival, lived.lives if lived else 0, time.monotonic() - began, result)


def crash_web(servers: Servers, template: str, point: Failpoint, folder: Path) -> Row:
    """Live the story beside a web process that SIGKILL ends at the point."""
    began, log = time.monotonic(), folder / f"{point}.log"
    secrets = {name: json.dumps(value) for name, value in settings_of_web().items()}
    try:
        with fresh_engine(servers, template) as (engine, url):
            environment = environment_of(DATABASE_URL=url, REDIS_URL=servers.fresh_redis(), **secrets)
            with restarted_web(environment, {"DUECOURSE_CRASH_AT": point}, log) as (web_url, ends):
                live(story_of(point), engine, url, point, arrival=0, web_url=web_url)
        result = HELD if ends == [KILLED] else f"BROKEN: the web process ended with {ends}"
    except AssertionError as error:
        result = f"BROKEN: {error}"
    return Row(point, "SIGKILL", 1, 2, time.monotonic() - began, result)


def _verdict(lived: Lived) -> str:
    if not lived.has_crashed:
        return "NOT REACHED"
    return f"BROKEN: the dead went on: {lived.after_death}" if lived.after_death else HELD


def arrivals(servers: Servers, template: str, points: Iterable[Failpoint]) -> Counter[Failpoint]:
    """How often each point is passed in its story without a crash."""
    found: Counter[Failpoint] = Counter()
    for first in {story_of(point).tell: point for point in points}.values():
        with fresh_engine(servers, template) as (engine, url):
            lived = live(story_of(first), engine, url, first, arrival=0)
        found |= Counter({p: n for p, n in lived.arrivals.items() if story_of(p) is story_of(first)})
    return found


def main(given: list[str]) -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.failpoints", description=__doc__)
    parser.add_argument("points", nargs="*", type=Failpoint, help="only these")
    parser.add_argument("--every", action="store_true", help="at every arrival, not only the first")
    arguments = parser.parse_args(given)
    points: list[Failpoint] = sorted(arguments.points or Failpoint)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    rows = []
    with test_servers() as servers, tempfile.TemporaryDirectory() as folder:
        template = servers.make_template(upgrade)
        passed = arrivals(servers, template, points)
        print(LINE.format("point", "how", "arrival", "lives", "s", "result"))
        for point in points:
            for arrival in range(1, passed[point] + 1 if arguments.every and point not in points_of(WEB) else 2):
                if point in points_of(WEB):
                    row = crash_web(servers, template, point, Path(folder))
                else:
                    row = crash_in_process(servers, template, point, arrival)
                rows.append(row)
                of = f"{row.arrival}/{passed[point]}"
                print(LINE.format(point, row.how, of, row.lives, f"{row.seconds:.1f}", row.result), flush=True)
    covered = {row.point for row in rows if row.result != "NOT REACHED"}
    held = sum(row.result == HELD for row in rows)
    print(f"failpoints: found {len(points)}, covered {len(covered)}; crashes {len(rows)}, held {held}")
    return 0 if held == len(rows) and len(covered) == len(points) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
