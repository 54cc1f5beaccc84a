"""Delivers events to endpoints: signed, at once, and retried until the endpoint takes them.

There is one sender per endpoint, so that an endpoint which is down delays no other. Deliveries are rows; a sender
reads the next ones when it is woken and has a free slot, so that memory stays small. Deliveries run concurrently:
as at Stripe, order isn't guaranteed and an event may arrive twice.
"""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable

import structlog

from simulator.api.views import event as event_view
from simulator.faults.hooks import NORMAL_DELIVERY, Delivery, DeliveryFault, DeliveryPlan, FaultHooks, NoFaults
from simulator.store.records import Event
from simulator.store.store import Store
from simulator.webhooks.events import Endpoint, Outbox
from simulator.webhooks.poster import Poster

log = structlog.get_logger(__name__)

IN_FLIGHT = 16  # deliveries at once per endpoint; enough to fill a receiver on the same machine
TIMEOUT_S = 10.0  # a slower endpoint has failed; Stripe's own limit is of this size
BACKOFF_S = (1, 2, 5, 10, 30, 60)  # then every 60; seconds first, so that a test or a demo sees the retry
GIVE_UP_AFTER_S = 3 * 86_400  # Stripe tries for three days in live mode (docs.stripe.com/webhooks)


class WebhookSenders:
    """The senders of all endpoints. `start` once the event loop runs; `stop` keeps what is undelivered."""

    def __init__(self, store: Store, outbox: Outbox, faults: FaultHooks | None = None) -> None:
        self._store = store
        self._outbox = outbox
        self._faults = faults or NoFaults()
        self._by_endpoint: dict[str, EndpointSender] = {}
        self._poster: Poster | None = None
        self.delivered = 0
        self.refused = 0

    def start(self) -> None:
        self._poster = Poster(TIMEOUT_S)
        self._outbox.on_event = self.wake
        for endpoint_id in self._outbox.endpoints:
            self.wake(endpoint_id)

    def wake(self, endpoint_id: str) -> None:
        """Wake the sender of an endpoint that has deliveries; create it if the endpoint is new."""
        sender = self._by_endpoint.get(endpoint_id)
        if sender is None and self._poster is not None:
            sender = self._by_endpoint[endpoint_id] = EndpointSender(self, endpoint_id, self._poster)
        if sender is not None:
            sender.wake()

    async def dismiss(self, endpoint_id: str) -> None:
        """Stop the sender of an endpoint that was removed."""
        if sender := self._by_endpoint.pop(endpoint_id, None):
            await sender.stop()

    async def stop(self) -> None:
        self._outbox.on_event = lambda _endpoint_id: None
        for sender in self._by_endpoint.values():
            await sender.stop()
        if self._poster is not None:
            await self._poster.close()

    def release_held(self) -> None:
        """Send the deliveries that a fault holds back."""
        for sender in self._by_endpoint.values():
            sender.release_held()

    def pending(self) -> int:
        return int(self._store.db.execute("SELECT count(*) FROM deliveries").fetchone()[0])

    @property
    def store(self) -> Store:
        return self._store

    @property
    def faults(self) -> FaultHooks:
        return self._faults

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        return self._outbox.endpoints.get(endpoint_id)


class EndpointSender:
    """Delivers to one endpoint."""

    def __init__(self, senders: WebhookSenders, endpoint_id: str, poster: Poster) -> None:
        self._senders = senders
        self._endpoint_id = endpoint_id
        self._poster = poster
        self._cursor = 0  # first attempts are made in order; every row up to here has had one
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = False
        self._held: dict[int, DeliveryPlan] = {}  # held before their first attempt by a fault

    def wake(self) -> None:
        """Start due deliveries up to the free slots, and set a timer for the next retry."""
        if self._is_stopped:
            return
        for delivery in self._due(IN_FLIGHT - len(self._under_way)):
            task = asyncio.create_task(self._deliver(delivery))
            self._under_way[delivery.seq] = task
            task.add_done_callback(self._done(delivery.seq))
        self._set_timer()

    def release_held(self) -> None:
        for seq in self._held:
            self._send_at(seq, time.time())
        self.wake()

    async def stop(self) -> None:
        self._is_stopped = True
        if self._timer:
            self._timer.cancel()
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    def _due(self, slots: int) -> list[Delivery]:
        if slots <= 0:
            return []
        read = self._senders.store.db.execute
        fresh = read(
            "SELECT seq, event, attempts FROM deliveries WHERE endpoint = ? AND seq > ? AND attempts = 0 "
            "ORDER BY seq LIMIT ?",
            (self._endpoint_id, self._cursor, slots),
        ).fetchall()
        if fresh:
            self._cursor = fresh[-1][0]
        again = read(
            "SELECT seq, event, attempts FROM deliveries WHERE endpoint = ? AND attempts > 0 AND next_at <= ? "
            "ORDER BY next_at LIMIT ?",
            (self._endpoint_id, time.time(), slots),
        ).fetchall()
        found = [*fresh, *(row for row in again if row[0] not in self._under_way)]
        return [Delivery(seq, self._endpoint_id, event, attempts) for seq, event, attempts in found[:slots]]

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        row = self._senders.store.db.execute(
            "SELECT min(next_at) FROM deliveries WHERE endpoint = ? AND attempts > 0", (self._endpoint_id,)
        ).fetchone()
        if row[0] is not None and len(self._under_way) < IN_FLIGHT:
            delay = max(row[0] - time.time(), 0.05)
            self._timer = asyncio.get_running_loop().call_later(delay, self.wake)

    def _done(self, seq: int) -> Callable[[asyncio.Task[None]], None]:
        def done(task: asyncio.Task[None]) -> None:
            self._under_way.pop(seq, None)
            if not task.cancelled() and (error := task.exception()):
                log.error("webhook_delivery_broke", endpoint=self._endpoint_id, reason=repr(error))
            self.wake()

        return done

    async def _deliver(self, delivery: Delivery) -> None:
        endpoint = self._senders.endpoint(self._endpoint_id)
        if endpoint is None:
            return
        store = self._senders.store
        found = store.get(Event, endpoint.account, delivery.event)
        if found is not None:
            plan = self._plan(endpoint, delivery, found)
            if plan.fault in (DeliveryFault.DELAY, DeliveryFault.HOLD):
                return
            if plan.fault is not DeliveryFault.DROP and not await self._is_taken(endpoint, delivery, found, plan):
                plan.on_no_effect()
                self._postpone(delivery)
                return
            if plan.fault is DeliveryFault.TWICE and plan.delay_s:
                self._hold(delivery, plan)
                return
        store.db.execute("DELETE FROM deliveries WHERE seq = ?", (delivery.seq,))

    def _plan(self, endpoint: Endpoint, delivery: Delivery, found: Event) -> DeliveryPlan:
        """Ask the fault hooks once per delivery; one that a fault has held is sent normally."""
        if was := self._held.pop(delivery.seq, None):
            if was.fault is DeliveryFault.TWICE:
                was.on_effect()
            else:
                was.on_no_effect()  # nothing overtook it; a delay has had its effect long ago
        if delivery.attempts:
            return NORMAL_DELIVERY
        plan = self._senders.faults.plan_delivery(delivery, endpoint.account, found)
        if plan.fault is DeliveryFault.HOLD and any(
            held.fault is DeliveryFault.HOLD for held in self._held.values()
        ):
            plan.on_no_effect()  # one at a time: of two held ones, neither would be overtaken
            return NORMAL_DELIVERY
        if plan.fault in (DeliveryFault.DELAY, DeliveryFault.HOLD):
            self._hold(delivery, plan)
        if plan.fault in (DeliveryFault.DELAY, DeliveryFault.DROP):
            plan.on_effect()
        return plan

    def _hold(self, delivery: Delivery, plan: DeliveryPlan) -> None:
        self._held[delivery.seq] = plan
        self._send_at(delivery.seq, time.time() + plan.delay_s)

    def _send_at(self, seq: int, at: float) -> None:
        self._senders.store.db.execute(
            "UPDATE deliveries SET attempts = max(attempts, 1), next_at = ? WHERE seq = ?", (at, seq)
        )

    async def _is_taken(self, endpoint: Endpoint, delivery: Delivery, found: Event, plan: DeliveryPlan) -> bool:
        if not await self._senders.faults.before_delivery(delivery):
            return False
        payload = json.dumps(event_view(found, pending_webhooks=1), separators=(",", ":")).encode()
        if plan.fault is not DeliveryFault.TWICE or plan.delay_s:
            return await self._post(endpoint, delivery, payload)
        # Concurrently, so that the two meet at the receiver.
        is_taken = await asyncio.gather(*(self._post(endpoint, delivery, payload) for _ in range(2)))
        if all(is_taken):
            plan.on_effect()
        else:
            plan.on_no_effect()
        return any(is_taken)

    async def _post(self, endpoint: Endpoint, delivery: Delivery, payload: bytes) -> bool:
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": sign(endpoint.secret, payload, int(time.time())),
            "User-Agent": "Stripe/1.0 (simulated)",
        }
        try:
            status = await self._poster.post(endpoint.url, payload, headers)
        except (OSError, TimeoutError) as error:
            self._refused(delivery, type(error).__name__)
            return False
        if 200 <= status < 300:
            self._senders.delivered += 1
            self._release_overtaken(delivery)
            return True
        self._refused(delivery, f"HTTP {status}")
        return False

    def _release_overtaken(self, delivery: Delivery) -> None:
        """Send the deliveries that were held until a later one, this one, was taken."""
        for seq, plan in self._held.items():
            if plan.fault is DeliveryFault.HOLD and seq < delivery.seq:
                plan.on_effect()
                self._send_at(seq, time.time())

    def _refused(self, delivery: Delivery, reason: str) -> None:
        self._senders.refused += 1
        log.info("webhook_not_taken", event_id=delivery.event, attempts=delivery.attempts + 1, reason=reason)

    def _postpone(self, delivery: Delivery) -> None:
        wait_s = BACKOFF_S[min(delivery.attempts, len(BACKOFF_S) - 1)]
        now = time.time()
        write = self._senders.store.db.execute
        write("DELETE FROM deliveries WHERE seq = ? AND first_at < ?", (delivery.seq, now - GIVE_UP_AFTER_S))
        write(
            "UPDATE deliveries SET attempts = attempts + 1, next_at = ? WHERE seq = ?",
            (now + wait_s, delivery.seq),
        )


def sign(secret: str, payload: bytes, at: int) -> str:
    """Sign as Stripe does (docs.stripe.com/webhooks/signature): HMAC-SHA256 over `t.payload`, machine time."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + payload, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
