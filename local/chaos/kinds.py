"""Every kind of fault that chaos knows, on one page: what it does, and what it is aimed at."""

from dataclasses import dataclass
from enum import StrEnum


class Group(StrEnum):
    """Where a fault strikes. Request and webhook faults wait armed in the simulator; the others are done to us."""

    REQUEST = "requests to the processor"
    WEBHOOK = "webhooks"
    PROCESS = "processes"
    VALKEY = "Valkey"
    POSTGRES = "PostgreSQL"
    MESSAGE = "messages"
    CLOCK = "clock"
    PEOPLE = "people"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault. `weight` is its share of the faults beyond the first twenty of each kind."""

    name: str
    group: Group
    does: str
    targets: tuple[str, ...] = ("",)
    weight: int = 6


#: Requests that most faults fit: what creates, what charges, what looks up. "" is whatever comes next.
_ANY = ("", "create", "confirm", "retrieve")
_SEND = ("create", "confirm")
_R, _W, _P = Group.REQUEST, Group.WEBHOOK, Group.PROCESS

#: Costs a start of a process or a server: some seconds of the machine.
_COSTLY = 1

KINDS: tuple[Kind, ...] = (
    Kind("idempotency_error", _R, "400: the key was used with other parameters", _SEND),
    Kind("unexpected_state", _R, "400: the PaymentIntent is in another state", ("confirm",)),
    Kind("unauthorized", _R, "401: the key is refused", _ANY),
    Kind("card_declined", _R, "402: the issuer declines", ("confirm",)),
    Kind("forbidden", _R, "403: the key may not do this", _ANY),
    Kind("key_in_use", _R, "409: another request with this key is under way", _SEND),
    Kind("rate_limited", _R, "429: too many requests, with and without Stripe-Should-Retry", _ANY),
    Kind("lock_timeout", _R, "429: lock_timeout, with and without Stripe-Should-Retry", _ANY),
    Kind("server_error", _R, "500: applied, saved and replayed under its key", _SEND),
    Kind("server_error_unapplied", _R, "500: not applied, saved under its key", _SEND),
    Kind("unavailable", _R, "503", _ANY),
    Kind("slow", _R, "applied at once, answered after the client's timeout", _ANY),
    Kind("slow_before", _R, "applied only after the client's timeout", _SEND),
    Kind("cut_before", _R, "the connection is cut before the request is applied", _ANY),
    Kind("cut_after", _R, "the connection is cut after the request was applied", _ANY),
    Kind("cut_mid_body", _R, "the connection is cut in the middle of the answer", _ANY),
    Kind("not_json", _R, "the answer isn't JSON", _ANY),
    Kind("list_lagging", _R, "a list omits what is new", ("list",)),
    Kind("canceled_by_limit", _R, "the PaymentIntent is canceled by the limit of confirmations", ("confirm",)),
    Kind("canceled_by_person", _R, "a person cancels the PaymentIntent as we confirm it", ("confirm",)),
    Kind("rate_limit", _R, "the account's rate limit is a few requests a second, for a while", weight=_COSTLY),
    Kind("webhook_dropped", _W, "a webhook never arrives"),
    Kind("webhook_duplicated", _W, "a webhook arrives twice"),
    Kind("webhook_delayed", _W, "a webhook arrives late"),
    Kind("webhook_reordered", _W, "a webhook is overtaken by the next"),
    Kind("webhook_before_answer", _W, "a webhook arrives before the answer to its request"),
    Kind("sigterm_twice", _P, "SIGTERM, twice within a second", ("worker-interactive", "worker-batch"), _COSTLY),
    Kind("kill_worker_interactive", _P, "kill -9", ("worker-interactive",), _COSTLY),
    Kind("kill_worker_batch", _P, "kill -9", ("worker-batch",), _COSTLY),
    Kind("kill_scheduler", _P, "kill -9 of one of two schedulers", ("scheduler.1", "scheduler.2"), _COSTLY),
    Kind("kill_web", _P, "kill -9", ("web",), _COSTLY),
    Kind("kill_simulator", _P, "kill -9 of the processor, in the middle of requests", ("simulator",), _COSTLY),
    Kind("freeze_worker", _P, "stopped for longer than a lease", ("worker-interactive", "worker-batch"), _COSTLY),
    Kind("valkey_killed", Group.VALKEY, "kill -9", weight=_COSTLY),
    Kind("valkey_restarted", Group.VALKEY, "SIGTERM, and started again", weight=_COSTLY),
    Kind("valkey_flushed", Group.VALKEY, "FLUSHALL", weight=_COSTLY),
    Kind("valkey_paused", Group.VALKEY, "answers nobody for seconds", weight=_COSTLY),
    Kind("valkey_full", Group.VALKEY, "no memory left for seconds: it refuses every write", weight=_COSTLY),
    Kind("postgres_fast", Group.POSTGRES, "restarted, fast: sessions are cut off", weight=_COSTLY),
    Kind("postgres_immediate", Group.POSTGRES, "restarted, immediate: it recovers from its log", weight=_COSTLY),
    Kind("connections_terminated", Group.POSTGRES, "every session is ended", weight=_COSTLY),
    Kind(
        "row_locked",
        Group.POSTGRES,
        "somebody holds a row's lock for several leases",
        ("payments", "accounts", "payment_settings", "payment_intents"),
        _COSTLY,
    ),
    Kind("disk_full", Group.POSTGRES, "commits meet SQLSTATE 53100 for a while", weight=_COSTLY),
    Kind("message_undecodable", Group.MESSAGE, "a body that can't be read", ("interactive", "batch", "runs"), 2),
    Kind("message_unknown_actor", Group.MESSAGE, "names an actor that isn't there", ("interactive", "batch"), 2),
    Kind("message_wrong_arguments", Group.MESSAGE, "arguments of the wrong kind", ("interactive", "batch"), 2),
    Kind("message_argument_missing", Group.MESSAGE, "of the previous release: an argument fewer", ("batch",), 2),
    Kind("message_argument_added", Group.MESSAGE, "of the next release: an argument more", ("batch",), 2),
    Kind("clock_jump", Group.CLOCK, "the business clock jumps over several days at once", weight=0),
    Kind("card_registered", Group.PEOPLE, "a customer registers a card again"),
    Kind("operator_charge", Group.PEOPLE, "an operator asks for a payment's money now"),
    Kind("operator_look_up", Group.PEOPLE, "an operator has an attempt in doubt looked up", weight=2),
    Kind("dashboard_cancel", Group.PEOPLE, "a person cancels a live PaymentIntent in the dashboard", weight=2),
)

BY_NAME = {kind.name: kind for kind in KINDS}
#: Those that wait armed in the simulator until a request or a delivery meets them.
ARMED = frozenset(
    kind.name for kind in KINDS if kind.group in (Group.REQUEST, Group.WEBHOOK) and kind.name != "rate_limit"
)
