"""Only events that Stripe signed recently, for the right coverage and mode, are stored."""

import json

import pytest

from shared.gateway.port import BadSignatureError
from shared.gateway.stripe_webhooks import UnreadableEventError, verify_webhook
from tests.web.conftest import MakeWeb, Web
from tests.web.stripe_webhooks import OLD_SECRET, SECRET, event_body, signature

BODY = event_body()


def test_event_signed_by_stripe_is_stored(web: Web) -> None:
    assert web.post(BODY, signature(BODY)) == 200
    (row,) = web.stored()
    assert (row.coverage, row.stripe_event_id, row.type) == ("global", "evt_1", "setup_intent.succeeded")
    assert (row.stripe_object_id, row.is_livemode, row.state) == ("seti_1", False, "received")
    assert int(row.stripe_created_at.timestamp()) == 1_793_000_000


def test_both_secrets_are_accepted_during_rotation(web: Web) -> None:
    assert web.post(BODY, signature(BODY, OLD_SECRET)) == 200
    assert web.post(event_body("evt_2"), signature(event_body("evt_2"), SECRET["global"])) == 200
    assert len(web.stored()) == 2


@pytest.mark.parametrize(
    ("body", "signed"),
    [
        pytest.param(BODY, None, id="no signature header"),
        pytest.param(BODY, "", id="empty header"),
        pytest.param(BODY, "nonsense", id="garbage header"),
        pytest.param(BODY, "t=now,v1=abc", id="timestamp is not a number"),
        pytest.param(BODY, signature(BODY).replace("v1=", "v9="), id="unknown scheme"),
        pytest.param(BODY, signature(BODY)[:-12] + "0" + ",v0=aaaa", id="one digit short or wrong"),
        pytest.param(BODY, signature(BODY, "whsec_stolen"), id="signed with an unknown secret"),
        pytest.param(BODY, signature(BODY, SECRET["japan"]), id="signed for the other coverage"),
        pytest.param(BODY.replace(b"seti_1", b"seti_2"), signature(BODY), id="tampered body"),
        pytest.param(BODY + b" ", signature(BODY), id="one byte more"),
        pytest.param(BODY, signature(BODY, age_s=302), id="older than 300 seconds"),
        pytest.param(b"\xff\xfe", signature(b"\xff\xfe"), id="body that isn't UTF-8"),
    ],
)
def test_invalid_or_old_signature_is_refused_and_not_stored(web: Web, body: bytes, signed: str | None) -> None:
    assert web.post(body, signed) == 400
    assert web.stored() == []
    assert web.enqueue.jobs == []


def test_signature_header_with_non_ascii_bytes_is_refused(web: Web) -> None:
    header = signature(BODY).encode().replace(b"v0=aaaa", b"v1=\xe9")
    answer = web.client.post("/webhooks/stripe/global", content=BODY, headers={b"Stripe-Signature": header})
    assert answer.status_code == 400


def test_signature_is_valid_for_almost_300_seconds(web: Web) -> None:
    assert web.post(BODY, signature(BODY, age_s=295)) == 200


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"not json", id="not JSON"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[" * 100_000, id="nested beyond reason"),
        pytest.param(json.dumps({"object": "v2.core.event", "id": "evt_1"}).encode(), id="thin event"),
        pytest.param(event_body("evt_\u0000"), id="NUL in the id"),
        pytest.param(event_body(""), id="empty id"),
        pytest.param(event_body(id=7), id="id that is a number"),
        pytest.param(event_body("e" * 256), id="id too long"),
        pytest.param(event_body(event_type="Setup Intent"), id="strange type"),
        pytest.param(event_body(livemode="false"), id="livemode is text"),
        pytest.param(event_body(livemode=None), id="livemode is missing"),
        pytest.param(event_body(created="yesterday"), id="created is text"),
        pytest.param(event_body(created=10**30), id="created beyond all calendars"),
        pytest.param(event_body(data=None), id="no data"),
        pytest.param(event_body(data={"object": {"id": {"a": 1}}}), id="object id is an object"),
    ],
)
def test_signed_malformed_body_is_refused_and_not_stored(web: Web, body: bytes) -> None:
    assert web.post(body, signature(body)) == 400
    assert web.stored() == []
    with pytest.raises(UnreadableEventError):
        verify_webhook(body, signature(body), [SECRET["global"]])


def test_event_about_an_object_without_id_is_stored(web: Web) -> None:
    assert web.post_signed(event_type="balance.available", data={"object": {"object": "balance"}}) == 200
    (row,) = web.stored()
    assert (row.stripe_object_id, row.state) == (None, "ignored")


@pytest.mark.parametrize(
    ("key", "is_live_event"), [("sk_test_x", True), ("sk_live_x", False), ("rk_live_x", False)]
)
def test_event_of_the_other_mode_is_refused_and_not_stored(
    make_web: MakeWeb, key: str, is_live_event: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    web = make_web(STRIPE_API_KEYS={"global": key})
    assert web.post_signed(livemode=is_live_event) == 400
    assert web.stored() == []
    assert "webhook.wrong_mode" in capsys.readouterr().out


def test_a_live_event_with_a_live_key_is_stored(make_web: MakeWeb) -> None:
    web = make_web(STRIPE_API_KEYS={"global": "sk_live_x"})
    assert web.post_signed(livemode=True) == 200
    assert [row.is_livemode for row in web.stored()] == [True]


@pytest.mark.parametrize("secrets", [[], [""], [" "]])
def test_a_coverage_without_a_secret_has_no_webhook(make_web: MakeWeb, secrets: list[str]) -> None:
    web = make_web(STRIPE_WEBHOOK_SECRETS={"global": secrets})
    assert web.post(BODY, signature(BODY, "")) == 404
    assert web.stored() == []


@pytest.mark.parametrize("coverage", ["atlantis", "GLOBAL", "global%00", "..%2Fglobal"])
def test_an_unknown_coverage_is_not_found(web: Web, coverage: str) -> None:
    assert web.post(BODY, signature(BODY), coverage) == 404


def test_without_secrets_every_signature_is_invalid() -> None:
    with pytest.raises(BadSignatureError):
        verify_webhook(BODY, signature(BODY, ""), [])
    with pytest.raises(BadSignatureError):
        verify_webhook(BODY, signature(BODY, ""), [""])


def test_refusal_reveals_no_secret_to_client_or_log(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    answer = web.client.post(
        "/webhooks/stripe/global", content=BODY, headers={"Stripe-Signature": signature(BODY, "whsec_stolen")}
    )
    web.post(BODY, signature(BODY))
    said = answer.text + "".join(capsys.readouterr())
    assert "webhook.refused" in said
    assert "webhook.stored" in said
    for secret in ("whsec", "Annabel", "1534", answer.request.headers["Stripe-Signature"]):
        assert secret not in said
