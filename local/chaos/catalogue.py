"""Every kind of fault that a chaos run injects: what it does, what it targets, and how its parameters are drawn.

Faults of requests and webhooks are the simulator's (simulator/faults/catalogue.py); this table adds how a plan uses
them, and all the faults that chaos injects itself. The order of the kinds is part of a plan's digest.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from simulator.faults.catalogue import FAULTS, REQUEST_FAULTS, WEBHOOK_FAULTS


class Group(StrEnum):
    """Where a fault applies. Request and webhook faults wait armed in the simulator; chaos injects the others."""

    REQUEST = "requests to the processor"
    WEBHOOK = "webhooks"
    PROCESS = "processes"
    VALKEY = "Valkey"
    POSTGRES = "PostgreSQL"
    MESSAGE = "messages"
    CLOCK = "clock"
    USERS = "users"


#: Draws a parameter's value from the dice, for a company of so many accounts.
Draw = Callable[[random.Random, int], Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault. `weight` is its share of the faults beyond the first twenty of each kind."""

    name: str
    group: Group
    description: str
    targets: tuple[str, ...] = ("",)
    weight: int = 6
    parameters: tuple[tuple[str, Draw], ...] = ()

    @property
    def is_armed(self) -> bool:
        """Whether it waits in the simulator until a request or a delivery meets it."""
        return self.name in FAULTS


def _one_of(*values: Any) -> Draw:
    return lambda dice, _accounts: dice.choice(values)


def _between(low: float, high: float) -> Draw:
    return lambda dice, _accounts: round(dice.uniform(low, high), 2)


#: Request kinds hit what creates, charges or looks up a PaymentIntent; "" is the next request, whatever it is.
_ANY = ("", "create", "confirm", "retrieve")
_SEND = ("create", "confirm")
_CONFIRM = ("confirm",)
_TARGETS: Mapping[str, tuple[str, ...]] = {
    "idempotency_error": _SEND,
    "unexpected_state": _CONFIRM,
    "unauthorized": _ANY,
    "card_declined": _CONFIRM,
    "forbidden": _ANY,
    "key_in_use": _SEND,
    "rate_limited": _ANY,
    "lock_timeout": _ANY,
    "server_error": _SEND,
    "server_error_unapplied": _SEND,
    "unavailable": _ANY,
    "slow": _ANY,
    "slow_before": _SEND,
    "cut_before": _ANY,
    "cut_after": _ANY,
    "cut_mid_body": _ANY,
    "not_json": _ANY,
    "list_lagging": ("list",),
    "canceled_by_limit": _CONFIRM,
    "canceled_by_person": _CONFIRM,
}
#: Milliseconds. Delays of answers are longer than the client waits: see SHORT_TIMEOUTS in company.py.
_DELAYS = (("delay_ms", _one_of(2_600.0, 4_000.0, 9_000.0, 15_000.0)),)
_ADVICE = (("should_retry", _one_of(True, False, None)),)
_PARAMETERS: Mapping[str, tuple[tuple[str, Draw], ...]] = {
    "slow": _DELAYS,
    "slow_before": _DELAYS,
    "list_lagging": (("delay_ms", _one_of(2_000.0, 10_000.0)),),
    "webhook_delayed": (("delay_ms", _one_of(500.0, 3_000.0, 8_000.0)),),
    "rate_limited": _ADVICE,
    "lock_timeout": _ADVICE,
}


def _armed(name: str, group: Group) -> Kind:
    targets, parameters = _TARGETS.get(name, ("",)), _PARAMETERS.get(name, ())
    return Kind(name, group, FAULTS[name].description, targets, parameters=parameters)


#: The weight of what costs some seconds of the machine: the start of a process or a server.
_COSTLY = 1
_WORKERS = ("worker-interactive", "worker-batch")
_WHICH_USER: tuple[tuple[str, Draw], ...] = (
    ("person", lambda dice, accounts: dice.randrange(accounts)),
    ("pays", lambda dice, _accounts: dice.random() < 0.85),
)
_OUTAGE = (("seconds", _between(1, 5)),)
_PROCESS, _VALKEY, _POSTGRES = Group.PROCESS, Group.VALKEY, Group.POSTGRES
_MESSAGE, _USERS = Group.MESSAGE, Group.USERS

KINDS: tuple[Kind, ...] = (
    *(_armed(name, Group.REQUEST) for name in REQUEST_FAULTS),
    Kind(
        "rate_limit",
        Group.REQUEST,
        "the account's rate limit is a few requests a second, for a while",
        weight=_COSTLY,
        parameters=(
            ("per_second", lambda dice, _accounts: float(dice.randint(2, 10))),
            ("seconds", _between(1, 3)),
        ),
    ),
    *(_armed(name, Group.WEBHOOK) for name in WEBHOOK_FAULTS),
    Kind(
        "sigterm_twice",
        _PROCESS,
        "SIGTERM, twice within a second",
        _WORKERS,
        _COSTLY,
        (("seconds", _between(0.05, 0.9)),),  # between the two
    ),
    Kind("kill_worker_interactive", _PROCESS, "kill -9", ("worker-interactive",), _COSTLY),
    Kind("kill_worker_batch", _PROCESS, "kill -9", ("worker-batch",), _COSTLY),
    Kind("kill_scheduler", _PROCESS, "kill -9 of one of two schedulers", ("scheduler.1", "scheduler.2"), _COSTLY),
    Kind("kill_web", _PROCESS, "kill -9", ("web",), _COSTLY),
    Kind("kill_simulator", _PROCESS, "kill -9 of the processor, during requests", ("simulator",), _COSTLY),
    Kind(
        "freeze_worker",
        _PROCESS,
        "SIGSTOP for longer than a lease, then SIGCONT",
        _WORKERS,
        _COSTLY,
        (("seconds", _between(7.5, 9)),),
    ),
    Kind("valkey_killed", _VALKEY, "kill -9", weight=_COSTLY),
    Kind("valkey_restarted", _VALKEY, "SIGTERM, and started again", weight=_COSTLY),
    Kind("valkey_flushed", _VALKEY, "FLUSHALL", weight=_COSTLY),
    Kind("valkey_paused", _VALKEY, "answers no client for seconds", weight=_COSTLY, parameters=_OUTAGE),
    Kind(
        "valkey_full", _VALKEY, "out of memory for seconds: rejects every write", weight=_COSTLY, parameters=_OUTAGE
    ),
    Kind("postgres_fast", _POSTGRES, "fast restart: sessions are cut off", weight=_COSTLY),
    Kind("postgres_immediate", _POSTGRES, "immediate restart: recovers from its log", weight=_COSTLY),
    Kind("connections_terminated", _POSTGRES, "every session is terminated", weight=_COSTLY),
    Kind(
        "row_locked",
        _POSTGRES,
        "another session holds a row's lock for several leases",
        ("payments", "accounts", "payment_settings", "payment_intents"),
        _COSTLY,
        (("seconds", _between(12, 24)),),
    ),
    Kind(
        "disk_full",
        _POSTGRES,
        "commits fail with SQLSTATE 53100 for a while",
        weight=_COSTLY,
        parameters=(("seconds", _between(0.5, 2)),),
    ),
    Kind("message_undecodable", _MESSAGE, "a body that can't be decoded", ("interactive", "batch", "runs"), 2),
    Kind("message_unknown_actor", _MESSAGE, "names an actor that doesn't exist", ("interactive", "batch"), 2),
    Kind("message_wrong_arguments", _MESSAGE, "arguments of the wrong type", ("interactive", "batch"), 2),
    Kind("message_argument_missing", _MESSAGE, "of the previous release: one argument fewer", ("batch",), 2),
    Kind("message_argument_added", _MESSAGE, "of the next release: one argument more", ("batch",), 2),
    Kind("clock_jump", Group.CLOCK, "the business clock jumps over several days at once", weight=0),
    Kind("card_registered", _USERS, "a customer registers another card", parameters=_WHICH_USER),
    Kind("operator_charge", _USERS, "an operator charges a payment now", parameters=_WHICH_USER),
    Kind("operator_look_up", _USERS, "an operator looks up an unknown attempt", weight=2, parameters=_WHICH_USER),
    Kind(
        "dashboard_cancel",
        _USERS,
        "a user cancels a live PaymentIntent in Stripe's dashboard",
        weight=2,
        parameters=_WHICH_USER,
    ),
    Kind(
        "dashboard_refund",
        _USERS,
        "a user refunds a captured charge, or a part of it, in Stripe's dashboard",
        weight=2,
        parameters=_WHICH_USER,
    ),
    Kind(
        "charge_disputed",
        _USERS,
        "a cardholder's bank disputes a captured charge, and may decide for us at once",
        weight=2,
        parameters=_WHICH_USER,
    ),
    Kind(
        "customer_deleted",
        _USERS,
        "a user deletes a customer in Stripe's dashboard; usually an operator forgets it, and another one is made",
        weight=1,
        parameters=_WHICH_USER,
    ),
    Kind(
        "keys_swapped",
        _PROCESS,
        "a worker is restarted with the API keys of two coverages swapped, until they are corrected",
        _WORKERS,
        _COSTLY,
        (("seconds", _between(2, 5)),),
    ),
)

BY_NAME = {kind.name: kind for kind in KINDS}
#: Those that wait armed in the simulator until a request or a delivery meets them.
ARMED = frozenset(kind.name for kind in KINDS if kind.is_armed)
