"""What reaches the log: secrets are fed in wherever a log call takes something, and none may be rendered (I12)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Each is what must not appear, inside the text that carries it.
SECRETS = {
    "sk_live_51Hsecret": "sk_live_51Hsecret",
    "rk_test_abcsecret": "key rk_test_abcsecret refused",
    "whsec_abcsecret": "whsec_abcsecret",
    "pi_1_secret_abc": "client secret pi_1_secret_abc",
    "ada@customer.example": "line one\nada@customer.example",
    "zoë@customer.example": "zoë@customer.example",
    "plainpw": "postgresql://app:plainpw@db.internal:5432/duecourse",
    "sla/shpw": "postgresql://app:sla/shpw@db.internal/duecourse",
    "a@t@pw": "connect to redis://:a@t@pw@cache.internal:6379/0 refused",
    "conninfopw": "host=db.internal password=conninfopw dbname=duecourse",
    "bearerbearer12": "Authorization: Bearer bearerbearer12",
}

SCRIPT = """
import json, logging, sys
from shared.logs import configure_logs
sys.stderr.isatty = lambda: sys.argv[1] == "terminal"
configure_logs("test")
import structlog
log = structlog.get_logger()

class Thing:
    def __repr__(self):
        return f"<Thing {self.text}>"

for text in json.load(sys.stdin):
    thing = Thing()
    thing.text = text
    log.info(text)
    log.info("top", value=text)
    log.info("nested", value={"a": {"b": [text, (text,), {text}]}, text: 1, "o": thing})
    log.info("bytes", value=text.encode())
    log.info("object", value=thing, error=ValueError(text))
    log.info("named", password="namedsecret", nested={"api_key": "namedsecret"})
    logging.getLogger("lib").warning("foreign %s %s", text, [text])
    logging.getLogger("lib").warning(text, stack_info=True)
    try:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise RuntimeError({"inner": text}) from error
    except RuntimeError:
        log.exception("ours", value=[text])
        logging.getLogger("lib").exception("theirs")
    structlog.contextvars.bind_contextvars(bound={"deep": [text]})
    log.info("context")
log.info("kept", payment_id=7, amount_minor=1200, is_paid=True, url="https://api.stripe.com/v1/charges", none=None)
"""


def _rendered(kind: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind],
        input=json.dumps(list(SECRETS.values())),
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        check=True,
    )
    return ran.stderr


@pytest.mark.parametrize("kind", ["json", "terminal"])
def test_no_secret_is_rendered_wherever_it_was_put(kind: str) -> None:
    rendered = _rendered(kind)
    escaped = {secret: [secret, json.dumps(secret)[1:-1], repr(secret.encode())[2:-1]] for secret in SECRETS}
    leaked = [secret for secret, forms in escaped.items() if any(form in rendered for form in forms)]
    assert leaked == []
    assert "namedsecret" not in rendered
    assert rendered.count("[redacted]") > 10 * len(SECRETS)


def test_each_line_is_json_and_what_is_no_secret_stays() -> None:
    lines = [json.loads(line) for line in _rendered("json").splitlines()]
    kept = lines[-1]
    assert (kept["event"], kept["payment_id"], kept["amount_minor"], kept["is_paid"], kept["none"]) == (
        "kept",
        7,
        1200,
        True,
        None,
    )
    assert kept["url"] == "https://api.stripe.com/v1/charges"
    assert any("Traceback" in line.get("exception", "") for line in lines)
