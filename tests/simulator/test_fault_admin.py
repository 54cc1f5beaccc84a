"""The admin endpoints of faults and rate limit: current rules, counts, and error messages."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.gateway.port import Outcome
from simulator.api.errors import ApiError
from simulator.api.rate_limit import RateLimit
from simulator.client import SimulatorClient
from simulator.faults.catalogue import FAULT_NAMES
from simulator.faults.rules import FaultRule
from simulator.settings import SettingsError, settings_from_environment
from simulator.testing import running_simulator
from tests.simulator.gateway import counting, new_payment

JSON = {"content-type": "application/json"}


def test_counts_name_every_kind(faulty: SimulatorClient) -> None:
    assert set(faulty.fault_counts()) == {*FAULT_NAMES, "rate_limit"}


def test_cleared_rules_hit_nothing_and_their_counts_stay(faulty: SimulatorClient) -> None:
    payment = new_payment(faulty)
    payment.script_fault("unavailable", count=None)
    with counting(faulty, "unavailable"):
        assert payment.retrieve().http_status == 503
        faulty.clear_faults()
        assert payment.retrieve().http_status == 200
    assert faulty.fault_rules() == []


def test_a_rule_that_has_used_up_its_count_is_still_shown(faulty: SimulatorClient) -> None:
    payment = new_payment(faulty)
    rule = FaultRule("unavailable", customer=payment.card.customer, operation="retrieve", should_retry=True)
    faulty.add_faults([rule])
    assert [payment.retrieve().http_status for _ in range(2)] == [503, 200]
    (shown,) = faulty.fault_rules()
    assert (shown.rule, shown.hits) == (rule, 1)


def test_no_rule_is_added_if_one_is_invalid(faulty: SimulatorClient) -> None:
    rules = [{"kind": "cut_after"}, {"kind": "sever_error"}]
    answer = httpx.post(f"{faulty.url}/_sim/faults", json={"rules": rules})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "rules[1][kind]")
    assert "did you mean 'server_error'" in error["message"]
    assert faulty.fault_rules() == []


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
@pytest.mark.parametrize("path", ["faults", "rate_limit", "latency", "cards"])
def test_a_form_of_a_web_page_changes_nothing(faulty: SimulatorClient, path: str, kind: str) -> None:
    body = '{"rules": [{"kind": "cut_after"}], "per_second": 1, "ms": 1, "account": "global"}'
    answer = httpx.post(f"{faulty.url}/_sim/{path}", content=body, headers={"content-type": kind} if kind else {})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]
    assert faulty.fault_rules() == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8401", "127.0.0.1.evil.example", "localhost@evil", ""]
)
@pytest.mark.parametrize(("method", "path"), [("GET", "ledger"), ("POST", "faults"), ("DELETE", "faults")])
def test_a_name_that_an_attacker_points_at_this_machine_is_refused(
    faulty: SimulatorClient, method: str, path: str, host: str
) -> None:
    url = f"{faulty.url}/_sim/{path}"
    answer = httpx.request(
        method, url, headers={"host": host, **JSON}, content='{"rules": [{"kind": "cut_after"}]}'
    )
    assert answer.status_code == 403
    assert faulty.fault_rules() == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "[::1]:8401", "LOCALHOST", "127.0.0.1:8401"])
def test_names_of_this_machine_are_accepted(faulty: SimulatorClient, host: str) -> None:
    assert httpx.get(f"{faulty.url}/_sim/faults", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("given", ["[]", "{}", '{"rules": {"kind": "slow"}}', '{"rules": ["slow"]}', "{"])
def test_an_invalid_body_is_refused(faulty: SimulatorClient, given: str) -> None:
    answer = httpx.post(f"{faulty.url}/_sim/faults", content=given, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_restarted_simulator_has_no_faults(tmp_path: Path) -> None:
    with running_simulator(data_dir=tmp_path) as own:
        own.add_faults([FaultRule("unavailable", count=None)])
    with running_simulator(data_dir=tmp_path) as own:
        assert own.fault_rules() == []
        assert new_payment(own).confirm().outcome is Outcome.SUCCEEDED


# -- the rate limit


def test_requests_above_the_limit_get_429_and_are_not_applied(faulty: SimulatorClient) -> None:
    payment, other = new_payment(faulty), new_payment(faulty, account="japan")
    faulty.set_rate_limit(0.001)  # one at once, and then none within this test
    with counting(faulty, "rate_limit"):
        assert payment.retrieve().http_status == 200
        answer = payment.confirm()
    assert (answer.outcome, answer.http_status, answer.code) == (Outcome.NOT_SENT, 429, "rate_limit")
    headers = httpx.get(f"{faulty.url}/v1/account", auth=("sk_test_sim_global", "")).headers
    assert headers["stripe-rate-limited-reason"] == "global-rate"
    assert other.confirm().outcome is Outcome.SUCCEEDED  # a limit is of an account
    faulty.set_rate_limit(None)
    assert payment.captured() == []
    assert payment.confirm().outcome is Outcome.SUCCEEDED  # under the same key: a 429 isn't saved


def test_requests_up_to_the_limit_are_admitted() -> None:
    now, passed = [100.0], 0
    limit = RateLimit(per_second=25, monotonic=lambda: now[0])
    for _ in range(400):  # 100 a second for four seconds
        try:
            limit.admit("global")
            passed += 1
        except ApiError:
            pass
        now[0] += 0.01
    assert passed in (124, 125)  # a second's worth at once, then 25 a second; four seconds end just before the last
    assert limit.refused == 400 - passed


@pytest.mark.parametrize("per_second", ["0", "-1", '"many"', "1e999", "[]"])
def test_an_invalid_limit_is_refused(faulty: SimulatorClient, per_second: str) -> None:
    body = f'{{"per_second": {per_second}}}'
    answer = httpx.post(f"{faulty.url}/_sim/rate_limit", content=body, headers=JSON)
    assert answer.status_code == 400
    assert "above 0" in answer.json()["error"]["message"]
    assert httpx.get(f"{faulty.url}/_sim/rate_limit").json()["per_second"] is None


def test_the_limit_can_be_set_at_the_start() -> None:
    assert settings_from_environment({}).rate_limit_per_s is None
    assert settings_from_environment({"SIMULATOR_RATE_LIMIT": "25"}).rate_limit_per_s == 25
    with pytest.raises(SettingsError, match="SIMULATOR_RATE_LIMIT"):
        settings_from_environment({"SIMULATOR_RATE_LIMIT": "0"})
    with running_simulator(rate_limit_per_s=0.001) as own:
        answers: list[Any] = [httpx.get(f"{own.url}/v1/account", auth=("sk_test_sim_global", "")) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
