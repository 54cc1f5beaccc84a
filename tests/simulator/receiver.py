"""A webhook receiver for tests: verifies with the SDK, and answers with 200 or 500."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import stripe

SECRET = "whsec_of_the_tests"


@dataclass
class Receiver:
    """The received events. `refusals` is how many of the next deliveries get a 500."""

    url: str = ""
    refusals: int = 0
    events: list[stripe.Event] = field(default_factory=list)
    attempts: list[tuple[str, float]] = field(default_factory=list)
    bad_signatures: int = 0

    def types(self) -> list[str]:
        return [event.type for event in self.events]

    def wait_for(self, event_type: str, *, count: int = 1, timeout_s: float = 15.0) -> stripe.Event:
        deadline = time.monotonic() + timeout_s
        while self.types().count(event_type) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {event_type} came; seen: {self.types()}")
            time.sleep(0.002)
        return [event for event in self.events if event.type == event_type][-1]


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """Run a receiver on a free port."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            payload = self.rfile.read(int(self.headers["Content-Length"]))
            status = self._take(payload)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _take(self, payload: bytes) -> int:
            try:
                event = stripe.Webhook.construct_event(payload, self.headers["Stripe-Signature"], SECRET)  # type: ignore[no-untyped-call]
            except stripe.SignatureVerificationError:
                receiver.bad_signatures += 1
                return 400
            receiver.attempts.append((event.id, time.monotonic()))
            if receiver.refusals:
                receiver.refusals -= 1
                return 500
            receiver.events.append(event)
            return 200

        def log_message(self, *args: object) -> None:  # noqa: ARG002
            return

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/webhooks"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
