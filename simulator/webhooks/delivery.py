"""Bringing events to endpoints: signed, at once, and again until they are taken.

One courier per endpoint, so that an endpoint which is away delays nobody else. What is to be delivered is
rows; a courier reads the next ones when it is woken and a place is free, so that memory stays small whatever
waits. Deliveries run side by side: as at Stripe, order isn't promised and an event may come twice.
"""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable

import structlog

from simulator.api.views import event as event_view
from simulator.faults.scripted_answers import STRAIGHT, Delivery, Detour, Faults, NoFaults, Way
from simulator.store.records import Event
from simulator.store.store import Store
from simulator.webhooks.events import Endpoint, Outbox
from simulator.webhooks.poster import Poster

log = structlog.get_logger(__name__)

IN_FLIGHT = 16  # deliveries at once per endpoint; enough to fill a receiver on the same machine
TIMEOUT_S = 10.0  # an endpoint that takes longer has failed; Stripe's own limit is of this size
BACKOFF_S = (1, 2, 5, 10, 30, 60)  # then every 60: seconds first, so that a test or a demo sees the retry
GIVE_UP_AFTER_S = 3 * 86_400  # Stripe tries for three days in live mode (docs.stripe.com/webhooks)


class Couriers:
    """All couriers. `start` once the event loop runs; `stop` leaves what is undelivered for the next start."""

    def __init__(self, store: Store, outbox: Outbox, faults: Faults | None = None) -> None:
        self._store = store
        self._outbox = outbox
        self._faults = faults or NoFaults()
        self._couriers: dict[str, Courier] = {}
        self._poster: Poster | None = None
        self.delivered = 0
        self.refused = 0

    def start(self) -> None:
        self._poster = Poster(TIMEOUT_S)
        self._outbox.on_mail = self.wake
        for endpoint_id in self._outbox.endpoints:
            self.wake(endpoint_id)

    def wake(self, endpoint_id: str) -> None:
        """Tell a courier that there is mail; makes the courier of an endpoint that is new."""
        courier = self._couriers.get(endpoint_id)
        if courier is None and self._poster is not None:
            courier = self._couriers[endpoint_id] = Courier(self, endpoint_id, self._poster)
        if courier is not None:
            courier.wake()

    async def dismiss(self, endpoint_id: str) -> None:
        """The endpoint was removed."""
        if courier := self._couriers.pop(endpoint_id, None):
            await courier.stop()

    async def stop(self) -> None:
        self._outbox.on_mail = lambda _endpoint_id: None
        for courier in self._couriers.values():
            await courier.stop()
        if self._poster is not None:
            await self._poster.close()

    def let_go(self) -> None:
        """Send what a fault holds back."""
        for courier in self._couriers.values():
            courier.let_go()

    def pending(self) -> int:
        return int(self._store.db.execute("SELECT count(*) FROM deliveries").fetchone()[0])

    @property
    def store(self) -> Store:
        return self._store

    @property
    def faults(self) -> Faults:
        return self._faults

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        return self._outbox.endpoints.get(endpoint_id)


class Courier:
    """Delivers to one endpoint."""

    def __init__(self, couriers: Couriers, endpoint_id: str, poster: Poster) -> None:
        self._couriers = couriers
        self._endpoint_id = endpoint_id
        self._poster = poster
        self._cursor = 0  # first attempts are made in order; every row up to here has had its first
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._is_stopped = False
        self._held: dict[int, Way] = {}  # put off before their first attempt, by a fault

    def wake(self) -> None:
        """Start what is due, as far as there are places; set an alarm for the next retry."""
        if self._is_stopped:
            return
        for delivery in self._due(IN_FLIGHT - len(self._under_way)):
            task = asyncio.create_task(self._deliver(delivery))
            self._under_way[delivery.seq] = task
            task.add_done_callback(self._done(delivery.seq))
        self._set_alarm()

    def let_go(self) -> None:
        for seq in self._held:
            self._send_at(seq, time.time())
        self.wake()

    async def stop(self) -> None:
        self._is_stopped = True
        if self._alarm:
            self._alarm.cancel()
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    def _due(self, places: int) -> list[Delivery]:
        if places <= 0:
            return []
        read = self._couriers.store.db.execute
        fresh = read(
            "SELECT seq, event, attempts FROM deliveries WHERE endpoint = ? AND seq > ? AND attempts = 0 "
            "ORDER BY seq LIMIT ?",
            (self._endpoint_id, self._cursor, places),
        ).fetchall()
        if fresh:
            self._cursor = fresh[-1][0]
        again = read(
            "SELECT seq, event, attempts FROM deliveries WHERE endpoint = ? AND attempts > 0 AND next_at <= ? "
            "ORDER BY next_at LIMIT ?",
            (self._endpoint_id, time.time(), places),
        ).fetchall()
        found = [*fresh, *(row for row in again if row[0] not in self._under_way)]
        return [Delivery(seq, self._endpoint_id, event, attempts) for seq, event, attempts in found[:places]]

    def _set_alarm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        row = self._couriers.store.db.execute(
            "SELECT min(next_at) FROM deliveries WHERE endpoint = ? AND attempts > 0", (self._endpoint_id,)
        ).fetchone()
        if row[0] is not None and len(self._under_way) < IN_FLIGHT:
            delay = max(row[0] - time.time(), 0.05)
            self._alarm = asyncio.get_running_loop().call_later(delay, self.wake)

    def _done(self, seq: int) -> Callable[[asyncio.Task[None]], None]:
        def done(task: asyncio.Task[None]) -> None:
            self._under_way.pop(seq, None)
            if not task.cancelled() and (error := task.exception()):
                log.error("webhook_delivery_broke", endpoint=self._endpoint_id, reason=repr(error))
            self.wake()

        return done

    async def _deliver(self, delivery: Delivery) -> None:
        endpoint = self._couriers.endpoint(self._endpoint_id)
        if endpoint is None:
            return
        store = self._couriers.store
        found = store.get(Event, endpoint.account, delivery.event)
        if found is not None:
            way = self._way_of(endpoint, delivery, found)
            if way.detour in (Detour.DELAY, Detour.HOLD):
                return
            if way.detour is not Detour.DROP and not await self._is_taken(endpoint, delivery, found, way):
                way.missed()
                self._put_off(delivery)
                return
            if way.detour is Detour.TWICE and way.delay_s:
                self._hold(delivery, way)
                return
        store.db.execute("DELETE FROM deliveries WHERE seq = ?", (delivery.seq,))

    def _way_of(self, endpoint: Endpoint, delivery: Delivery, found: Event) -> Way:
        """Ask the faults, once for each delivery; one that comes back from a detour goes straight."""
        if was := self._held.pop(delivery.seq, None):
            if was.detour is Detour.TWICE:
                was.landed()
            else:
                was.missed()  # nothing overtook it; a delay has landed long ago
        if delivery.attempts:
            return STRAIGHT
        way = self._couriers.faults.way_of(delivery, endpoint.account, found)
        if way.detour is Detour.HOLD and any(held.detour is Detour.HOLD for held in self._held.values()):
            way.missed()  # one at a time: of two that both wait, neither would be overtaken
            return STRAIGHT
        if way.detour in (Detour.DELAY, Detour.HOLD):
            self._hold(delivery, way)
        if way.detour in (Detour.DELAY, Detour.DROP):
            way.landed()
        return way

    def _hold(self, delivery: Delivery, way: Way) -> None:
        self._held[delivery.seq] = way
        self._send_at(delivery.seq, time.time() + way.delay_s)

    def _send_at(self, seq: int, at: float) -> None:
        self._couriers.store.db.execute(
            "UPDATE deliveries SET attempts = max(attempts, 1), next_at = ? WHERE seq = ?", (at, seq)
        )

    async def _is_taken(self, endpoint: Endpoint, delivery: Delivery, found: Event, way: Way) -> bool:
        if not await self._couriers.faults.before_delivery(delivery):
            return False
        payload = json.dumps(event_view(found, pending_webhooks=1), separators=(",", ":")).encode()
        if way.detour is not Detour.TWICE or way.delay_s:
            return await self._post(endpoint, delivery, payload)
        # Beside each other, so that the two meet at the receiver.
        is_taken = await asyncio.gather(*(self._post(endpoint, delivery, payload) for _ in range(2)))
        if all(is_taken):
            way.landed()
        else:
            way.missed()
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
            self._couriers.delivered += 1
            self._overtook(delivery)
            return True
        self._refused(delivery, f"HTTP {status}")
        return False

    def _overtook(self, delivery: Delivery) -> None:
        """A delivery that was held for this moment may go, behind the one just taken."""
        for seq, way in self._held.items():
            if way.detour is Detour.HOLD and seq < delivery.seq:
                way.landed()
                self._send_at(seq, time.time())

    def _refused(self, delivery: Delivery, reason: str) -> None:
        self._couriers.refused += 1
        log.info("webhook_not_taken", event_id=delivery.event, attempts=delivery.attempts + 1, reason=reason)

    def _put_off(self, delivery: Delivery) -> None:
        wait_s = BACKOFF_S[min(delivery.attempts, len(BACKOFF_S) - 1)]
        now = time.time()
        write = self._couriers.store.db.execute
        write("DELETE FROM deliveries WHERE seq = ? AND first_at < ?", (delivery.seq, now - GIVE_UP_AFTER_S))
        write(
            "UPDATE deliveries SET attempts = attempts + 1, next_at = ? WHERE seq = ?",
            (now + wait_s, delivery.seq),
        )


def sign(secret: str, payload: bytes, at: int) -> str:
    """Sign as Stripe does (docs.stripe.com/webhooks/signature): HMAC-SHA256 over `t.payload`, machine time."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + payload, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
