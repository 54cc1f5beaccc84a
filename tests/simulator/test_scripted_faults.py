"""Scripted faults: which requests they hit, how often, and the errors in Stripe's format."""

import socket
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import stripe

from shared.gateway.port import Outcome
from simulator.client import SimulatorClient
from simulator.faults.rules import FaultRule
from simulator.issuer.stories import AlwaysDeclines
from simulator.testing import running_simulator
from tests.simulator.conftest import sdk
from tests.simulator.gateway import Payment, counting, gateway, new_payment
from tests.simulator.sdk_calls import body, confirm, new_intent, refusal, until

STATE = "payment_intent_unexpected_state"

#: kind, the SDK's error, HTTP status, type, code
WORDS: list[tuple[str, type[stripe.StripeError], int, str, str | None]] = [
    ("idempotency_error", stripe.IdempotencyError, 400, "idempotency_error", None),
    ("unexpected_state", stripe.InvalidRequestError, 400, "invalid_request_error", STATE),
    ("unauthorized", stripe.AuthenticationError, 401, "invalid_request_error", None),
    ("card_declined", stripe.CardError, 402, "card_error", "card_declined"),
    ("forbidden", stripe.PermissionError, 403, "invalid_request_error", None),
    ("key_in_use", stripe.APIError, 409, "invalid_request_error", "idempotency_key_in_use"),
    ("rate_limited", stripe.RateLimitError, 429, "invalid_request_error", "rate_limit"),
    ("lock_timeout", stripe.RateLimitError, 429, "invalid_request_error", "lock_timeout"),
    ("server_error", stripe.APIError, 500, "api_error", None),
    ("server_error_unapplied", stripe.APIError, 500, "api_error", None),
    ("unavailable", stripe.APIError, 503, "api_error", None),
    ("canceled_by_limit", stripe.InvalidRequestError, 400, "invalid_request_error", STATE),
]


def keyed_confirm(sim: SimulatorClient, payment: Payment) -> stripe.StripeError:
    params: Any = {"payment_method": payment.card.payment_method, "off_session": True}
    ask = sdk(sim, payment.account).v1.payment_intents.confirm
    return refusal(lambda: ask(payment.intent, params, {"idempotency_key": payment.key}))


@pytest.mark.parametrize(("kind", "error_class", "status", "error_type", "code"), WORDS)
def test_the_sdk_reads_each_error_as_stripes_own(
    faulty: SimulatorClient,
    kind: str,
    error_class: type[stripe.StripeError],
    status: int,
    error_type: str,
    code: str | None,
) -> None:
    payment = new_payment(faulty)
    payment.script_fault(kind, operation="confirm")
    error = keyed_confirm(faulty, payment)
    assert type(error) is error_class
    assert (error.http_status, body(error)["type"], body(error).get("code")) == (status, error_type, code)
    assert error.headers is not None
    assert error.headers.get("stripe-rate-limited-reason") == ("global-rate" if kind == "rate_limited" else None)
    assert error.request_id is not None
    assert error.request_id.startswith("req_")


@pytest.mark.parametrize("should_retry", [True, False, None])
def test_should_retry_of_the_rule_is_sent_with_the_error(
    faulty: SimulatorClient, should_retry: bool | None
) -> None:
    payment = new_payment(faulty)
    for kind in ("rate_limited", "lock_timeout", "key_in_use", "unavailable", "server_error_unapplied"):
        payment.script_fault(kind, should_retry=should_retry)
        headers = keyed_confirm(faulty, payment).headers
        assert headers is not None
        assert headers.get("stripe-should-retry") == {True: "true", False: "false", None: None}[should_retry]


def test_a_scripted_decline_looks_like_any_other(faulty: SimulatorClient) -> None:
    payment = new_payment(faulty)
    payment.script_fault("card_declined")
    error = body(keyed_confirm(faulty, payment))
    assert error["decline_code"] == "generic_decline"
    intent = error["payment_intent"]
    assert (intent["status"], intent["payment_method"]) == ("requires_payment_method", None)
    charge = sdk(faulty).v1.charges.retrieve(intent["latest_charge"])
    assert (charge.status, charge.failure_code, charge.id) == ("failed", "card_declined", error["charge"])
    events = sdk(faulty).v1.events.list({"limit": 10}).data
    assert {e.type for e in events if e.data.object["id"] in (charge.id, intent["id"])} == {
        "payment_intent.created",
        "payment_intent.payment_failed",
        "charge.failed",
    }
    assert faulty.card("global", payment.card.fingerprint).declined == 1


def test_scripted_declines_count_towards_the_confirmation_limit() -> None:
    with running_simulator(confirmation_limit=2) as own:
        payment = new_payment(own)
        payment.script_fault("card_declined", count=None)
        outcomes = [payment.confirm(str(uuid4())).outcome for _ in range(3)]
        assert outcomes == [Outcome.DECLINED, Outcome.DECLINED, Outcome.CANCELED]
        assert own.fault_counts()["card_declined"] == 2  # the third wasn't a decline


@pytest.mark.parametrize(
    ("kind", "reason"), [("canceled_by_limit", "automatic"), ("canceled_by_person", "requested_by_customer")]
)
def test_a_cancellation_shows_its_reason(faulty: SimulatorClient, kind: str, reason: str) -> None:
    payment = new_payment(faulty)
    payment.script_fault(kind)
    answer = payment.confirm()
    assert answer.payment_intent is not None
    assert answer.payment_intent.cancellation_reason == reason
    last = sdk(faulty).v1.events.list({"limit": 1, "type": "payment_intent.canceled"}).data[0]
    assert last.data.object["id"] == payment.intent


def test_a_cancellation_of_a_paid_payment_intent_waits_for_the_next_request(faulty: SimulatorClient) -> None:
    paid, open_ = new_payment(faulty, account="japan"), new_payment(faulty, account="japan")
    paid.confirm()
    faulty.add_faults([FaultRule("canceled_by_person", account="japan", operation="retrieve")])
    with counting(faulty, "canceled_by_person", 0):
        assert paid.retrieve().outcome is Outcome.SUCCEEDED
    with counting(faulty, "canceled_by_person"):
        assert open_.retrieve().outcome is Outcome.CANCELED


def test_an_applied_500_skips_a_refused_request(faulty: SimulatorClient) -> None:
    payment = new_payment(faulty)
    payment.script_fault("server_error", operation="confirm")
    other = new_payment(faulty)
    with counting(faulty, "server_error", 0):  # another customer's card: refused
        answer = payment.gateway.confirm_payment_intent(payment.intent, other.card.payment_method, str(uuid4()))
    assert answer.http_status == 400
    with counting(faulty, "server_error"):
        assert payment.confirm().http_status == 500


# -- whom


def test_a_fault_hits_its_account_only(faulty: SimulatorClient) -> None:
    here, there = new_payment(faulty), new_payment(faulty, account="japan")
    faulty.add_faults([FaultRule("cut_before", account="japan", operation="confirm")])
    assert here.confirm().outcome is Outcome.SUCCEEDED
    assert there.confirm().outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("operation", ["confirm", "retrieve", "cancel"])
@pytest.mark.parametrize("by", ["payment_method", "fingerprint", "token"])
def test_a_fault_hits_its_card_under_any_name(faulty: SimulatorClient, by: str, operation: str) -> None:
    payment, other = new_payment(faulty, AlwaysDeclines()), new_payment(faulty, AlwaysDeclines())
    assert payment.confirm().outcome is other.confirm().outcome is Outcome.DECLINED
    token = faulty.card("global", payment.card.fingerprint).token
    name = token if by == "token" else getattr(payment.card, by)
    faulty.add_faults([FaultRule("unavailable", card=name, operation=operation)])

    def ask(one: Payment) -> int | None:
        key = str(uuid4())
        calls = {"confirm": lambda: one.confirm(key), "cancel": lambda: one.cancel(key), "retrieve": one.retrieve}
        return calls[operation]().http_status

    assert ask(other) != 503
    assert ask(payment) == 503


def test_a_fault_hits_a_test_card_by_its_token(faulty: SimulatorClient) -> None:
    faulty.add_faults([FaultRule("unavailable", card="pm_card_mastercard")])
    client = sdk(faulty)
    intent = new_intent(client, None)
    assert refusal(lambda: confirm(client, intent.id, "pm_card_mastercard")).http_status == 503


def test_each_rule_counts_its_own_matches(faulty: SimulatorClient) -> None:
    """A script by request: the first is limited, the second breaks, the third is cut, the fourth is well."""
    payment = new_payment(faulty)
    for skip, kind in enumerate(("rate_limited", "unavailable", "cut_before")):
        payment.script_fault(kind, operation="confirm", skip=skip)
    assert [payment.confirm().http_status for _ in range(4)] == [429, 503, None, 200]
    assert [(each.rule.kind, each.hits) for each in faulty.fault_rules()] == [
        ("rate_limited", 1),
        ("unavailable", 1),
        ("cut_before", 1),
    ]


def test_the_first_rule_that_hits_gets_the_request(faulty: SimulatorClient) -> None:
    payment = new_payment(faulty)
    payment.script_fault("unavailable", operation="confirm")
    payment.script_fault("forbidden", operation="confirm")
    assert [payment.confirm().http_status for _ in range(3)] == [503, 403, 200]


def test_the_same_seed_hits_the_same_requests(faulty: SimulatorClient) -> None:
    def broken(seed: int) -> list[bool]:
        payment = new_payment(faulty)
        payment.script_fault("unavailable", operation="retrieve", probability=0.5, seed=seed, count=None)
        return [payment.retrieve().http_status == 503 for _ in range(30)]

    first = broken(1)
    assert first == broken(1)
    assert first != broken(2)
    assert True in first
    assert False in first


def test_a_fault_about_keys_needs_a_key(faulty: SimulatorClient) -> None:
    faulty.add_faults([FaultRule("key_in_use"), FaultRule("idempotency_error")])
    headers = {"Authorization": "Bearer sk_test_sim_global"}
    assert httpx.post(f"{faulty.url}/v1/customers", headers=headers).status_code == 200
    assert httpx.post(f"{faulty.url}/v1/customers", headers={**headers, "Idempotency-Key": "k"}).status_code == 409
    assert [each.hits for each in faulty.fault_rules()] == [1, 0]


def test_a_lost_replay_is_not_applied_again(faulty: SimulatorClient) -> None:
    payment = new_payment(faulty)
    assert payment.confirm().outcome is Outcome.SUCCEEDED
    payment.script_fault("card_declined")
    payment.script_fault("cut_mid_body")
    assert payment.confirm().outcome is Outcome.UNKNOWN
    assert payment.confirm().outcome is Outcome.SUCCEEDED
    assert {each.rule.kind: each.hits for each in faulty.fault_rules()} == {"card_declined": 0, "cut_mid_body": 1}


# -- time


def impatient(payment: Payment) -> Payment:
    """A gateway with a read timeout of 0.2 s for the same payment."""
    return replace(payment, gateway=gateway(payment.sim, payment.account, read_timeout_s=0.2))


def test_an_answer_after_the_timeout_is_unknown_although_the_money_moved(faulty: SimulatorClient) -> None:
    payment = new_payment(faulty)
    payment.script_fault("slow", operation="confirm", delay_ms=1_000.0)
    assert impatient(payment).confirm().outcome is Outcome.UNKNOWN
    until(lambda: payment.captured() == [500])
    assert faulty.fault_rules()[0].hits == 1
    assert payment.retrieve().outcome is Outcome.SUCCEEDED


def test_a_request_applied_after_the_timeout_moves_money(faulty: SimulatorClient) -> None:
    payment, began = new_payment(faulty), time.monotonic()
    payment.script_fault("slow_before", operation="confirm", delay_ms=1_000.0)
    assert impatient(payment).confirm().outcome is Outcome.UNKNOWN
    assert payment.captured() == [] or time.monotonic() - began > 1.0
    second = payment.confirm()
    if not payment.captured():
        assert (second.outcome, second.http_status) == (Outcome.UNKNOWN, 409)  # the first is in progress
    until(lambda: payment.captured() == [500])
    assert payment.confirm().outcome is Outcome.SUCCEEDED
    assert payment.captured() == [500]


# -- lists


def test_a_lagging_list_omits_new_objects_and_shows_them_later(faulty: SimulatorClient) -> None:
    client = sdk(faulty)
    payment = new_payment(faulty)
    payment.confirm()
    params: Any = {"payment_intent": payment.intent}
    faulty.add_faults([FaultRule("list_lagging", delay_ms=3_600_000)])
    with counting(faulty, "list_lagging"):
        assert client.v1.charges.list(params).data == []
    assert len(client.v1.charges.list(params).data) == 1


def test_a_list_that_omits_nothing_is_no_hit(faulty: SimulatorClient) -> None:
    payment = new_payment(faulty)
    payment.confirm()
    faulty.add_faults([FaultRule("list_lagging", delay_ms=0.001)])  # all is older than a microsecond
    with counting(faulty, "list_lagging", 0):
        assert len(sdk(faulty).v1.charges.list({"payment_intent": payment.intent}).data) == 1


# -- on the wire


def over_a_socket(sim: SimulatorClient) -> tuple[httpx.Headers, bytes]:
    """Ask for the account, and return the headers and whatever bytes follow them before the connection ends."""
    host, _, port = sim.url.removeprefix("http://").partition(":")
    request = f"GET /v1/account HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer sk_test_sim_global\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(request.encode())
        came = b""
        with suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                came += chunk
    head, _, rest = came.partition(b"\r\n\r\n")
    return httpx.Headers([tuple(line.split(b": ", 1)) for line in head.split(b"\r\n")[1:]]), rest  # type: ignore[misc]


def test_a_cut_body_announces_its_full_length_and_sends_half(faulty: SimulatorClient) -> None:
    faulty.add_faults([FaultRule("cut_mid_body")])
    headers, came = over_a_socket(faulty)
    promised = int(headers["content-length"])
    assert 0 < len(came) == promised // 2
    assert came.startswith(b'{"id":"acct_')


@pytest.mark.parametrize("kind", ["cut_before", "cut_after"])
def test_a_cut_connection_sends_nothing(faulty: SimulatorClient, kind: str) -> None:
    faulty.add_faults([FaultRule(kind)])
    headers, came = over_a_socket(faulty)
    assert (len(headers), came) == (0, b"")
    assert [seen.status for seen in faulty.requests(path_contains="/v1/account")][-1] == 0


def test_a_body_that_is_not_json_is_declared_as_html(faulty: SimulatorClient) -> None:
    faulty.add_faults([FaultRule("not_json")])
    answer = httpx.get(f"{faulty.url}/v1/account", auth=("sk_test_sim_global", ""))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html")
    assert answer.text.startswith("<html>")
