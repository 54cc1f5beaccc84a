"""A typed client of the simulator's `/_sim` endpoints, for tests, the demo and benchmarks.

For Stripe's API use the SDK. Every method raises SimulatorError with the simulator's message if it refuses.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import httpx

from simulator.certificates import trusted_certificates
from simulator.faults.rules import FaultRule, rule_from_json
from simulator.issuer.stories import Pays, Story, story_to_json


class SimulatorError(RuntimeError):
    """The simulator refused; `status` is its HTTP status, `body` its answer (Stripe's error shape)."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self.body = dict(body)
        self.code: str | None = self.body.get("error", {}).get("code")
        super().__init__(f"{status}: {self.body.get('error', {}).get('message', self.body)}")


@dataclass(frozen=True)
class LedgerLine:
    """One captured charge. `created_at` is on the business clock."""

    account: str
    charge: str
    amount: int
    currency: str
    customer: str | None
    payment_intent: str
    metadata: Mapping[str, str]
    created_at: datetime


@dataclass(frozen=True)
class SimulatedCard:
    """A card with a story. `token` is used like `pm_card_visa`; `declined` and `paid` count its answers."""

    account: str
    token: str
    fingerprint: str
    brand: str
    last4: str
    declined: int
    paid: int


@dataclass(frozen=True)
class RegisteredCard:
    """A card registration: its ids and the visible part of the card."""

    setup_intent: str
    payment_method: str
    customer: str
    fingerprint: str
    brand: str
    last4: str


@dataclass(frozen=True)
class WebhookEndpoint:
    id: str
    account: str
    url: str
    enabled_events: tuple[str, ...]


@dataclass(frozen=True)
class WebhookStats:
    """`pending` deliveries wait or are in progress; the others are counts since the process started."""

    pending: int
    delivered: int
    refused: int


@dataclass(frozen=True)
class SeenRequest:
    """One request of the log; `arrived_ns` is machine time (time.time_ns).

    `status` is 0 if the connection was cut before any answer.
    """

    arrived_ns: int
    method: str
    path: str
    account: str | None
    idempotency_key: str | None
    status: int
    is_replay: bool


@dataclass(frozen=True)
class ScriptedFault:
    """A rule in force: `seen` requests or webhooks matched it, `hits` of them had its effect."""

    rule: FaultRule
    seen: int
    hits: int


class SimulatorClient:
    """Talks to a running simulator. Usable as a context manager."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url, timeout=timeout_s, verify=trusted_certificates(), trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # -- the ledger

    def ledger(self, account: str | None = None) -> list[LedgerLine]:
        """Every captured charge, oldest first."""
        return list(self.iter_ledger(account))

    def iter_ledger(self, account: str | None = None) -> Iterator[LedgerLine]:
        """Stream the ledger, which may be too large for memory."""
        with self._http.stream("GET", "/_sim/ledger", params=_given(account=account)) as answer:
            if answer.is_error:
                answer.read()
                raise SimulatorError(answer.status_code, answer.json())
            for line in answer.iter_lines():
                yield _ledger_line(httpx.Response(200, text=line).json())

    def health(self) -> dict[str, Any]:
        """Status, business time and counts of objects."""
        return self._get("/_sim/health")

    # -- cards

    def make_card(
        self,
        account: str,
        story: Story | None = None,
        *,
        brand: str = "visa",
        last4: str | None = None,
        exp_month: int = 12,
        exp_year: int = 2034,
    ) -> SimulatedCard:
        """Make a new card with a story (default: pays). Attach its `token` as you would `pm_card_visa`."""
        body = _given(account=account, brand=brand, last4=last4, exp_month=exp_month, exp_year=exp_year)
        return _card(self._post("/_sim/cards", {**body, "story": story_to_json(story or Pays())}))

    def card(self, account: str, card: str) -> SimulatedCard:
        """Look at a card by fingerprint, `pm_story_…` token or PaymentMethod id."""
        return _card(self._get(f"/_sim/cards/{card}", account=account))

    def set_story(self, account: str, card: str, story: Story) -> SimulatedCard:
        """Give a card (fingerprint, token or PaymentMethod id) a new story; its counts start at zero."""
        return _card(self._post(f"/_sim/cards/{card}/story", {"account": account, "story": story_to_json(story)}))

    def register_card(
        self,
        account: str,
        customer: str,
        card: str = "pm_card_visa",
        metadata: Mapping[str, str] | None = None,
    ) -> RegisteredCard:
        """Act as a customer's browser: a confirmed SetupIntent with our metadata.

        Fires setup_intent.created, payment_method.attached and setup_intent.succeeded.
        """
        body = {"account": account, "customer": customer, "card": card, "metadata": dict(metadata or {})}
        return RegisteredCard(**self._post("/_sim/register_card", body))

    def automatically_update(
        self, account: str, payment_method: str, *, exp_month: int, exp_year: int, last4: str | None = None
    ) -> None:
        """Act as a network's card updater: new expiry (and last4: a new number) behind the same id."""
        body = _given(account=account, exp_month=exp_month, exp_year=exp_year, last4=last4)
        self._post(f"/_sim/payment_methods/{payment_method}/automatic_update", body)

    # -- users at the processor

    def cancel_payment_intent(
        self, account: str, payment_intent: str, reason: str = "requested_by_customer"
    ) -> None:
        """Cancel as a user of Stripe's dashboard."""
        self._post(f"/_sim/payment_intents/{payment_intent}/cancel", {"account": account, "reason": reason})

    def authenticate(self, account: str, intent: str, *, succeeds: bool = True) -> None:
        """The customer completes (or fails) 3-D Secure of a PaymentIntent or SetupIntent in requires_action."""
        self._post(f"/_sim/intents/{intent}/authenticate", {"account": account, "succeeds": succeeds})

    def delete_customer(self, account: str, customer: str) -> None:
        """Delete a customer for good, as a user of Stripe's dashboard."""
        self._answer(self._http.delete(f"/v1/customers/{customer}", auth=(f"sk_test_sim_{account}", "")))

    def refund_charge(self, account: str, charge: str, amount: int | None = None) -> None:
        """Refund a charge, or a part of it in minor units, as a user of Stripe's dashboard."""
        self._post(f"/_sim/charges/{charge}/refund", _given(account=account, amount=amount))

    def dispute_charge(
        self, account: str, charge: str, reason: str = "fraudulent", *, is_inquiry: bool = False
    ) -> str:
        """Dispute a charge as the cardholder's bank; return the dispute's id."""
        body = {"account": account, "reason": reason, "is_inquiry": is_inquiry}
        return str(self._post(f"/_sim/charges/{charge}/dispute", body)["id"])

    def close_dispute(self, account: str, dispute: str, *, is_won: bool) -> None:
        """Decide a dispute as the bank."""
        self._post(f"/_sim/disputes/{dispute}/close", {"account": account, "is_won": is_won})

    # -- webhooks

    def add_webhook_endpoint(
        self, account: str, url: str, secret: str, enabled_events: Sequence[str] = ("*",)
    ) -> WebhookEndpoint:
        """Register an endpoint; the same account and URL again updates secret and events."""
        body = {"account": account, "url": url, "secret": secret, "enabled_events": list(enabled_events)}
        return _endpoint(self._post("/_sim/webhook_endpoints", body))

    def webhook_endpoints(self) -> list[WebhookEndpoint]:
        return [_endpoint(found) for found in self._get("/_sim/webhook_endpoints")["data"]]

    def remove_webhook_endpoint(self, endpoint_id: str) -> None:
        self._answer(self._http.delete(f"/_sim/webhook_endpoints/{endpoint_id}"))

    def webhook_stats(self) -> WebhookStats:
        return WebhookStats(**self._get("/_sim/webhooks"))

    # -- faults

    def add_faults(self, rules: Sequence[FaultRule]) -> None:
        """Append rules to those in force; none is added if one is invalid (SimulatorError)."""
        self._post("/_sim/faults", {"rules": [rule.to_json() for rule in rules]})

    def clear_faults(self) -> None:
        """Remove all rules; held webhooks are sent. Counts and rate limit stay."""
        self._answer(self._http.delete("/_sim/faults"))

    def fault_rules(self) -> list[ScriptedFault]:
        """The rules in force, in the order in which they are evaluated."""
        found = self._get("/_sim/faults")["data"]
        return [ScriptedFault(rule_from_json(each["rule"]), each["seen"], each["hits"]) for each in found]

    def fault_counts(self) -> dict[str, int]:
        """Faults that had their effect since the process started: every kind, also at 0, and `rate_limit`.

        Clearing rules keeps their counts. `rate_limit` counts requests refused by `set_rate_limit`.
        """
        return dict(self._get("/_sim/faults")["counts"])

    def set_rate_limit(self, per_second: float | None) -> None:
        """Refuse an account's requests above this rate with 429; None: no limit (default)."""
        self._post("/_sim/rate_limit", {"per_second": per_second})

    # -- the machine

    def set_latency(self, ms: float) -> None:
        """Delay every answer of the Stripe API by this many milliseconds (0: none)."""
        self._post("/_sim/latency", {"ms": ms})

    def prune_idempotency_keys(self, older_than_s: float = 0.0) -> int:
        """Delete saved answers older than this (machine time; default all). Returns how many."""
        return int(self._post("/_sim/idempotency/prune", {"older_than_s": older_than_s})["pruned"])

    def request_counts(self) -> dict[str, int]:
        """Requests since the process started, by `METHOD /path/:id`."""
        return dict(self._get("/_sim/requests/stats")["counts"])

    def requests(self, path_contains: str | None = None, limit: int = 1000) -> list[SeenRequest]:
        """The last requests to the Stripe API, oldest first (a bounded log, in memory)."""
        found = self._get("/_sim/requests", **_given(path_contains=path_contains, limit=limit))["data"]
        return [SeenRequest(**seen) for seen in found]

    # -- HTTP

    def _get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._answer(self._http.get(path, params=query))

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._answer(self._http.post(path, json=dict(body)))

    def _answer(self, answer: httpx.Response) -> dict[str, Any]:
        body: dict[str, Any] = answer.json()
        if answer.is_error:
            raise SimulatorError(answer.status_code, body)
        return body


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _ledger_line(line: Mapping[str, Any]) -> LedgerLine:
    fields = dict(line)
    return LedgerLine(created_at=datetime.fromtimestamp(fields.pop("created"), UTC), **fields)


def _card(found: Mapping[str, Any]) -> SimulatedCard:
    return SimulatedCard(**{name: found[name] for name in SimulatedCard.__dataclass_fields__})


def _endpoint(found: Mapping[str, Any]) -> WebhookEndpoint:
    return WebhookEndpoint(found["id"], found["account"], found["url"], tuple(found["enabled_events"]))
