"""Plots: standalone SVG documents with labelled axes, deterministic, without script; and the cache of metrics."""

import subprocess
import sys
import threading
from datetime import UTC, date, datetime, timedelta
from xml.etree import ElementTree

import pytest

from shared.domain.calendar import Period
from shared.domain.states import PaymentState
from tests.dashboard.conftest import Dashboard
from tests.scheduler.test_sweep import add_attempt
from tests.seed import add_account, add_payment
from web.dashboard import plotting
from web.dashboard.cache import CachedValue, PlotCache
from web.dashboard.plotting import THEMES
from web.dashboard.queries.attempt_metrics import Attempts, Slot
from web.dashboard.queries.money_metrics import Curve, Sum

NOON = datetime(2026, 11, 4, 12, tzinfo=UTC)
SLOTS = tuple(
    Slot(NOON + timedelta(hours=n), Attempts(succeeded=10 * n, declined=n, not_sent=n % 2)) for n in range(24)
)


def words(svg: str) -> str:
    return " ".join(text for text in ElementTree.fromstring(svg).itertext() if text.strip())  # noqa: S314  # ours


def draw(theme: str = "light") -> str:
    return plotting.draw_attempts(SLOTS, by_hour=True, zone="Asia/Tokyo", theme=THEMES[theme])


@pytest.mark.parametrize("theme", list(THEMES))
def test_attempts_plot_has_axes_units_and_zone(theme: str) -> None:
    svg = draw(theme)
    for said in (
        "attempts",
        "success (%)",
        "hour in which the outcome was known (Asia/Tokyo)",
        "succeeded",
        "declined",
        "not sent",
        "11:00",
    ):
        assert said in words(svg), said
    assert "authentication" not in words(svg), "outcomes that never occurred are not in the legend"
    assert THEMES[theme].ink in svg


def test_recovery_plot_compares_with_the_previous_month() -> None:
    present = Curve("global", "USD", Period(2026, 12), Sum(2, 100), Sum(1, 50), (0.0, 0.5))
    before = Curve("global", "USD", Period(2026, 11), Sum(2, 100), Sum(2, 100), (0.0, 0.5, 1.0))
    svg = plotting.draw_recovery(present, before, theme=THEMES["dark"])
    for said in (
        "days since the first decline",
        "share of USD recovered (%)",
        "first declined in 2026-12",
        "first declined in 2026-11",
    ):
        assert said in words(svg), said


def test_same_data_gives_the_same_svg_from_many_threads() -> None:
    first, others = draw(), []
    drawn = PlotCache()
    threads = [
        threading.Thread(target=lambda n=n: others.append(drawn.get((str(n),), draw)))  # type: ignore[misc]
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert others == [first] * 4


def test_plot_is_drawn_once_and_old_plots_are_evicted() -> None:
    drawn, made = PlotCache(at_most=2), []

    def make() -> str:
        made.append(1)
        return "svg"

    for key in ("a", "a", "b", "b", "c", "a"):
        drawn.get((key,), make)
    assert len(made) == 4


def test_cached_value_is_computed_by_one_thread_while_others_wait() -> None:
    cache: CachedValue[int] = CachedValue()
    begun, may_end, made, got = threading.Event(), threading.Event(), [], []

    def make() -> int:
        made.append(1)
        begun.set()
        may_end.wait(10)
        return len(made)

    threads = [threading.Thread(target=lambda: got.append(cache.get(lambda: NOON, make))) for _ in range(4)]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    may_end.set()
    for thread in threads:
        thread.join()
    assert got == [1] * 4


def test_clock_set_back_expires_the_cache() -> None:
    cache: CachedValue[int] = CachedValue()
    assert cache.get(lambda: NOON, lambda: 1) == 1
    assert cache.get(lambda: NOON + timedelta(seconds=10), lambda: 2) == 1
    assert cache.get(lambda: NOON - timedelta(seconds=1), lambda: 3) == 3


def test_stale_value_is_returned_and_refreshed_in_the_background() -> None:
    cache: CachedValue[int] = CachedValue()
    later, may_end, renewed = NOON + timedelta(seconds=5), threading.Event(), threading.Event()
    cache.get(lambda: NOON, lambda: 1)

    def slow() -> int:
        assert may_end.wait(10)
        renewed.set()
        return 2

    assert [cache.get(lambda: later, slow) for _ in range(3)] == [1, 1, 1]
    assert not renewed.is_set()
    may_end.set()
    much_later = NOON + timedelta(seconds=11)
    assert cache.get(lambda: much_later, lambda: pytest.fail("the refreshed value is only 6 s old")) == 2


def test_unsuccessful_refresh_is_retried_by_the_next_reader() -> None:
    cache: CachedValue[int] = CachedValue()
    cache.get(lambda: NOON, lambda: 1)
    called = threading.Event()

    def fail() -> int:
        called.set()
        raise OSError("the database is away")

    assert cache.get(lambda: NOON + timedelta(seconds=5), fail) == 1
    assert called.wait(10)
    with pytest.raises(OSError, match="away"):
        cache.get(lambda: NOON + timedelta(seconds=11), fail)
    assert cache.get(lambda: NOON + timedelta(seconds=11), lambda: 3) == 3


@pytest.mark.parametrize("name", ["attempts-hours", "attempts-days", "recovery-global", "recovery-japan"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_overview_plot_is_served_without_script_and_with_a_strict_policy(
    dashboard: Dashboard, name: str, theme: str
) -> None:
    world = dashboard.world
    with world.engine.begin() as connection:
        anna = add_account(connection, "anna")
        paid = add_payment(
            connection,
            anna,
            5_00,
            state=PaymentState.PAID,
            period=date(2026, 10, 1),
            paid_at=world.clock.now(),
            first_declined_at=world.clock.now(),
        )
        add_attempt(connection, anna, paid, "succeeded", finished_at=world.clock.now())
    browser = dashboard.as_("viewer")
    page = browser.get().text
    assert f"/dashboard/plots/{name}.svg?theme={theme}&amp;v=" in page
    answer = browser.get(f"/plots/{name}.svg", theme=theme)
    assert answer.headers["content-type"].startswith("image/svg+xml")
    policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    assert answer.headers["content-security-policy"] == policy
    ElementTree.fromstring(answer.text)  # noqa: S314  # ours
    for forbidden in ("<script", "onload", "javascript:", "http://www.w3.org/1999/xhtml"):
        assert forbidden not in answer.text
    assert THEMES[theme].ink in answer.text
    assert browser.get(f"/plots/{name}.svg", theme=theme).text == answer.text


@pytest.mark.parametrize("name", ["nothing", "attempts-hours.svg", "..%2f..%2fsecrets", "recovery-mars"])
def test_unknown_plot_is_not_found(dashboard: Dashboard, name: str) -> None:
    assert dashboard.as_("viewer").get(f"/plots/{name}.svg").status_code == 404


def test_plots_require_a_session(dashboard: Dashboard) -> None:
    assert dashboard.anonymous().get("/plots/attempts-hours.svg").status_code == 303


def test_the_web_process_starts_without_loading_matplotlib() -> None:
    code = "import sys, web.app; print('matplotlib' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
