"""Event types, endpoints, and the outbox that writes an event together with its deliveries.

Events and deliveries are written in the transaction of the change they report, so that a killed simulator sends
them after its restart. simulator/webhooks/delivery.py sends them.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from simulator.store.ids import IdMint
from simulator.store.records import Event, Record, to_plain
from simulator.store.store import Store

#: Every event type that the simulator sends, with the object it carries (docs.stripe.com/api/events/types).
EVENT_TYPES: dict[str, str] = {
    "charge.captured": "charges",
    "charge.dispute.closed": "disputes",
    "charge.dispute.created": "disputes",
    "charge.dispute.funds_reinstated": "disputes",
    "charge.dispute.funds_withdrawn": "disputes",
    "charge.failed": "charges",
    "charge.refunded": "charges",
    "charge.succeeded": "charges",
    "customer.created": "customers",
    "customer.updated": "customers",
    "customer.deleted": "customers",
    "payment_intent.amount_capturable_updated": "payment_intents",
    "payment_intent.canceled": "payment_intents",
    "payment_intent.created": "payment_intents",
    "payment_intent.payment_failed": "payment_intents",
    "payment_intent.requires_action": "payment_intents",
    "payment_intent.succeeded": "payment_intents",
    "payment_method.attached": "payment_methods",
    "payment_method.automatically_updated": "payment_methods",
    "payment_method.detached": "payment_methods",
    "payment_method.updated": "payment_methods",
    "setup_intent.canceled": "setup_intents",
    "setup_intent.created": "setup_intents",
    "setup_intent.requires_action": "setup_intents",
    "setup_intent.setup_failed": "setup_intents",
    "setup_intent.succeeded": "setup_intents",
}


@dataclass(frozen=True)
class Cause:
    """The request that causes an event; no request for what a dashboard user or a card network does."""

    account: str
    now: int
    request_id: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Endpoint:
    """An account's webhook endpoint. `secret` signs its events."""

    id: str
    account: str
    url: str
    secret: str
    enabled_events: frozenset[str]

    def wants(self, event_type: str) -> bool:
        return "*" in self.enabled_events or event_type in self.enabled_events


@dataclass(frozen=True)
class Webhook:
    """An endpoint as configured at the start. `secret` (`whsec_…`) signs its events."""

    account: str
    url: str
    secret: str
    enabled_events: tuple[str, ...] = ("*",)


class Outbox:
    """Writes events and their deliveries, and keeps the endpoints. `on_event` is called after each commit."""

    def __init__(self, store: Store, mint: IdMint) -> None:
        self._store = store
        self._mint = mint
        self._touched: set[str] = set()
        self.on_event: Callable[[str], None] = lambda _endpoint_id: None
        self.endpoints: dict[str, Endpoint] = {}
        rows = store.db.execute("SELECT id, account, url, secret, enabled_events FROM webhook_endpoints")
        for endpoint_id, account, url, secret, enabled in rows:
            self.endpoints[endpoint_id] = Endpoint(
                endpoint_id, account, url, secret, frozenset(json.loads(enabled))
            )

    def emit(self, cause: Cause, event_type: str, record: Record, previous: dict[str, Any] | None = None) -> None:
        """Write an event within the open transaction."""
        event = Event(
            id=self._mint.new("evt"),
            account=cause.account,
            created=cause.now,
            type=event_type,
            subject_table=EVENT_TYPES[event_type],
            subject=to_plain(record),
            request_id=cause.request_id,
            idempotency_key=cause.idempotency_key,
            previous_attributes=previous,
        )
        self._store.add(event)
        at = time.time()
        for endpoint in self.endpoints.values():
            if endpoint.account == cause.account and endpoint.wants(event_type):
                self._store.db.execute(
                    "INSERT INTO deliveries (endpoint, event, first_at, next_at) VALUES (?, ?, ?, ?)",
                    (endpoint.id, event.id, at, at),
                )
                self._touched.add(endpoint.id)

    def wake_senders(self) -> None:
        """After the commit, wake the senders of the endpoints that have new deliveries."""
        for endpoint_id in self._touched:
            self.on_event(endpoint_id)
        self._touched.clear()

    def pending_of(self, event_id: str) -> int:
        """How many endpoints have not yet taken this event."""
        row = self._store.db.execute("SELECT count(*) FROM deliveries WHERE event = ?", (event_id,)).fetchone()
        return int(row[0])

    def put_endpoint(self, account: str, url: str, secret: str, enabled: Iterable[str]) -> Endpoint:
        """Add an endpoint, or change secret and events of the one with this account and URL."""
        known = next((e for e in self.endpoints.values() if (e.account, e.url) == (account, url)), None)
        events = frozenset(enabled)
        endpoint = Endpoint(known.id if known else self._mint.new("we"), account, url, secret, events)
        self._store.db.execute(
            "INSERT INTO webhook_endpoints (id, account, url, secret, enabled_events) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (account, url) DO UPDATE SET "
            "secret = excluded.secret, enabled_events = excluded.enabled_events",
            (endpoint.id, account, url, secret, json.dumps(sorted(events))),
        )
        self.endpoints[endpoint.id] = endpoint
        return endpoint

    def settle_endpoints(self, wanted: Sequence[Webhook]) -> None:
        """Set the endpoints of every account that `wanted` names to those it lists.

        If an account's URL changed, pending deliveries move to the new one, as at Stripe, where one edits the URL
        of an endpoint. Accounts that aren't named keep their endpoints.
        """
        listed = {(webhook.account, webhook.url) for webhook in wanted}
        named = {webhook.account for webhook in wanted}
        strays = [e for e in self.endpoints.values() if e.account in named and (e.account, e.url) not in listed]
        known = {(endpoint.account, endpoint.url) for endpoint in self.endpoints.values()}
        for webhook in wanted:
            stray = next((each for each in strays if each.account == webhook.account), None)
            if (webhook.account, webhook.url) not in known and stray is not None:
                strays.remove(stray)
                self._store.db.execute("UPDATE webhook_endpoints SET url = ? WHERE id = ?", (webhook.url, stray.id))
                self.endpoints[stray.id] = replace(stray, url=webhook.url)
            self.put_endpoint(webhook.account, webhook.url, webhook.secret, webhook.enabled_events)
        for stray in strays:
            self.remove_endpoint(stray.id)

    def remove_endpoint(self, endpoint_id: str) -> None:
        """Remove an endpoint and its pending deliveries."""
        with self._store.transaction():
            self._store.db.execute("DELETE FROM deliveries WHERE endpoint = ?", (endpoint_id,))
            self._store.db.execute("DELETE FROM webhook_endpoints WHERE id = ?", (endpoint_id,))
        self.endpoints.pop(endpoint_id, None)
