"""The mechanism of failpoints: free when off, logged when armed, and refused with a live key."""

import os
import signal
import subprocess
import sys
import time
import timeit
from collections.abc import Callable

import pytest

from shared import failpoints as failpoints
from shared.failpoints import Crashed, Failpoint, arm, crashing_at, reach, read_plan
from shared.settings import Settings, SettingsError, load_settings
from tests.failpoints.processes import ROOT

#: A call and a look at a variable take some 80 ns, naming the point included; this leaves room for slow machines.
CHEAP_NS = 1_000


def test_disarmed_failpoint_costs_nanoseconds() -> None:
    times = 100_000
    step = "reach(Failpoint.CHARGE_CLAIMED)"
    names = {"reach": reach, "Failpoint": Failpoint}
    took_s = min(timeit.repeat(step, globals=names, timer=time.process_time, number=times, repeat=5))
    print(f"{step} when off: {took_s / times * 1e9:.0f} ns of processor time")
    assert took_s / times * 1e9 < CHEAP_NS


def test_crash_happens_only_at_the_armed_arrival() -> None:
    with crashing_at(Failpoint.CHARGE_CLAIMED, arrival=2) as crash:
        reach(Failpoint.CHARGE_CLAIMED)
        reach(Failpoint.CHARGE_BEGUN)
        with pytest.raises(Crashed):
            reach(Failpoint.CHARGE_CLAIMED)
        with pytest.raises(Crashed):
            reach(Failpoint.CHARGE_RECORDED)
        assert (crash.happened, crash.after_death) == (True, ["charge.recorded"]), "the dead were seen to go on"
        crash.bury()
        reach(Failpoint.CHARGE_CLAIMED)
    reach(Failpoint.CHARGE_CLAIMED)


def test_no_error_handler_catches_a_crash() -> None:
    caught: list[Exception] = []

    def step() -> None:
        try:
            reach(Failpoint.CHARGE_CLAIMED)
        except Exception as error:  # as wide as handlers get
            caught.append(error)

    with crashing_at(Failpoint.CHARGE_CLAIMED), pytest.raises(Crashed):
        step()
    assert caught == []


@pytest.mark.parametrize(
    ("crash_at", "probability", "said"),
    [
        ("charge.claimed", None, "charge.claimed, arrival 1"),
        ("charge.claimed:3", None, "charge.claimed, arrival 3"),
        ("charge.claimed, settle.turn.begun:2", None, "charge.claimed, settle.turn.begun, arrival 2"),
        ("charge.claimed", 0.25, "charge.claimed, probability 0.25"),
        ("settle.looked_up", None, "settle.look_up.sent, arrival 1"),  # renamed: scripts of drills hold the old one
        (None, 0.001, "every point, probability 0.001"),
        (None, None, "None"),
        ("", 0.0, "None"),
    ],
)
def test_plan_is_parsed_and_described(crash_at: str | None, probability: float | None, said: str) -> None:
    assert str(read_plan(crash_at, probability)) == said


SetEnvironment = Callable[..., None]


@pytest.fixture
def set_environment(monkeypatch: pytest.MonkeyPatch) -> SetEnvironment:
    def set_(**settings: str) -> None:
        for field in Settings.model_fields.values():
            monkeypatch.delenv(str(field.validation_alias), raising=False)
        given = {"DATABASE_URL": "postgresql://localhost/none", "REDIS_URL": "redis://localhost/0", **settings}
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return set_


@pytest.mark.parametrize(
    "armed", [{"DUECOURSE_CRASH_AT": "charge.claimed"}, {"DUECOURSE_CRASH_PROBABILITY": "0.5"}]
)
def test_live_key_cannot_be_armed(set_environment: SetEnvironment, armed: dict[str, str]) -> None:
    set_environment(STRIPE_API_KEYS='{"global": "sk_test_1"}', **armed)
    assert load_settings().crash_plan is not None
    set_environment(STRIPE_API_KEYS='{"global": "sk_live_1"}', **armed)
    with pytest.raises(SettingsError, match="DUECOURSE_CRASH_AT and DUECOURSE_CRASH_PROBABILITY are refused"):
        load_settings()


def test_invalid_failpoint_or_number_is_rejected_with_the_choices(set_environment: SetEnvironment) -> None:
    set_environment(DUECOURSE_CRASH_AT="charge.nowhere")
    with pytest.raises(SettingsError, match=r"'charge.nowhere' is not a valid Failpoint; there are: charge.begun,"):
        load_settings()
    set_environment(DUECOURSE_CRASH_AT="charge.claimed:soon")
    with pytest.raises(SettingsError, match="'soon' is not the number of an arrival"):
        load_settings()
    set_environment(DUECOURSE_CRASH_PROBABILITY="2")
    with pytest.raises(SettingsError, match="DUECOURSE_CRASH_PROBABILITY"):
        load_settings()


def test_nothing_is_armed_without_a_plan() -> None:
    arm(None)
    assert failpoints._hook is None


@pytest.mark.parametrize("plan", ['"charge.claimed:3", None', "None, 1.0"])
def test_armed_process_kills_itself_and_logs_where(plan: str) -> None:
    program = (
        "from shared.failpoints import *\n"
        f"arm(read_plan({plan}))\n"
        "for _ in range(3):\n"
        "    try:\n"
        "        reach(Failpoint.CHARGE_BEGUN) if 'claimed' in str(read_plan(" + plan + ")) else None\n"
        "        reach(Failpoint.CHARGE_CLAIMED)\n"
        "    finally:\n"
        "        print('lived', flush=True)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.count("lived") == (2 if "claimed" in plan else 0), "no finally runs after it"
    assert "failpoint charge.claimed: process" in ended.stderr
    assert "failpoints.armed" in ended.stdout + ended.stderr
