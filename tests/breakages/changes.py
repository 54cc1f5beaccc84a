"""What breakages put in the place of a guard. Each function takes the original and returns its replacement."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine

from shared.gateway.outcomes import Problem
from shared.gateway.port import Answer, Outcome
from shared.payments.claim import KEY_GOOD_FOR, Claimed
from shared.payments.outcome_handlers import Locked, after_decline
from shared.runtime import Runtime

Function = Callable[..., Any]

#: Every unique key but the plain ids of tables: as in `tests/payments/test_unique_keys.py`.
DROP_UNIQUE_KEYS = """
    DO $$ DECLARE key record; BEGIN
        FOR key IN
            SELECT t.relname AS of_table, c.relname AS name, k.oid IS NOT NULL AS is_constraint
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
            LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.contype IN ('p', 'u')
            WHERE i.indisunique AND c.relnamespace = CAST('public' AS regnamespace)
              AND t.relname <> 'alembic_version' AND NOT (i.indisprimary AND i.indnatts = 1)
        LOOP
            IF key.is_constraint
            THEN EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I CASCADE', key.of_table, key.name);
            ELSE EXECUTE format('DROP INDEX %I', key.name);
            END IF;
        END LOOP;
    END $$
"""
DROP_HISTORY_TRIGGERS = """
    DO $$ DECLARE trigger record; BEGIN
        FOR trigger IN
            SELECT tgname AS name, CAST(CAST(tgrelid AS regclass) AS text) AS of_table FROM pg_trigger
            WHERE NOT tgisinternal AND tgname ~ '_are_(forever|immutable|kept)$'
        LOOP EXECUTE format('DROP TRIGGER %I ON %s', trigger.name, trigger.of_table);
        END LOOP;
    END $$
"""

_claimed: dict[str, Claimed] = {}


# -- order: what is committed before which request


def remembering(claim: Function) -> Function:
    """A claim whose result `confirming_first` finds by its create key."""

    def claim_charge(*arguments: Any, **named: Any) -> Any:
        claimed = claim(*arguments, **named)
        if isinstance(claimed, Claimed):
            _claimed[claimed.create_key] = claimed
        return claimed

    return claim_charge


def confirming_first(runtime: Runtime) -> Runtime:
    """A create is followed by its confirm before anybody can commit the id."""
    gateways: Any = {name: _ConfirmingFirst(gateway) for name, gateway in runtime.gateways.items()}
    return replace(runtime, gateways=gateways)


class _ConfirmingFirst:
    def __init__(self, gateway: Any) -> None:
        self._gateway = gateway

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gateway, name)

    def create_payment_intent(self, parameters: Any, key: str) -> Answer:
        answer: Answer = self._gateway.create_payment_intent(parameters, key)
        claimed = _claimed.get(key)
        if answer.payment_intent is not None and claimed is not None:
            self._gateway.confirm_payment_intent(
                answer.payment_intent.stripe_id, claimed.stripe_payment_method_id, claimed.attempt_key
            )
        return answer


def creating_confirmed(claim: Function) -> Function:
    """A claim whose create takes the money at once."""

    def claim_charge(*arguments: Any, **named: Any) -> Any:
        claimed = claim(*arguments, **named)
        if not isinstance(claimed, Claimed):
            return claimed
        confirmed = {"payment_method": claimed.stripe_payment_method_id, "off_session": True, "confirm": True}
        return replace(claimed, create_parameters={**claimed.create_parameters, **confirmed})

    return claim_charge


def creating_inside(claim: Function) -> Function:
    """A claim that sends the create in its own transaction."""

    def claim_charge(connection: Any, runtime: Runtime, *arguments: Any, **named: Any) -> Any:
        claimed = claim(connection, runtime, *arguments, **named)
        if isinstance(claimed, Claimed) and claimed.stripe_payment_intent_id is None:
            gateway = runtime.gateways[claimed.coverage]
            gateway.create_payment_intent(claimed.create_parameters, claimed.create_key)
        return claimed

    return claim_charge


def stale_by_age_alone(_before: Function) -> Function:
    """Any PaymentIntent of 23 hours is given up, also one whose id is known and which may be paid."""

    def is_create_key_stale(intent: Any, machine_now: datetime) -> bool:
        return bool(intent.first_sent_at < machine_now - KEY_GOOD_FOR)

    return is_create_key_stale


def random_property(_before: property) -> property:
    """A key that is another one each time."""
    return property(lambda _self: f"duecourse-{uuid4()}")


# -- the runtime: clocks and gateways


def with_runtime(change: Callable[[Runtime], Runtime]) -> Callable[[Function], Function]:
    """A function that gets another runtime than its caller gave it."""

    def wrap(function: Function) -> Function:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            return function(*(change(a) if isinstance(a, Runtime) else a for a in arguments), **named)

        return wrapped

    return wrap


def machine_time_from_business(runtime: Runtime) -> Runtime:
    return replace(runtime, machine_now=runtime.clock.now)


def business_time_from_machine(runtime: Runtime) -> Runtime:
    clock: Any = SimpleNamespace(now=runtime.machine_now)
    return replace(runtime, clock=clock)


def one_lease_ahead(runtime: Runtime) -> Runtime:
    return replace(runtime, machine_now=lambda: runtime.machine_now() + runtime.lease)


def holding(runtime: Runtime) -> Runtime:
    """Every request is sent with a transaction open."""
    held: Any = {name: _Holding(gateway, runtime.engine) for name, gateway in runtime.gateways.items()}
    return replace(runtime, gateways=held)


class _Holding:
    def __init__(self, gateway: Any, engine: Engine) -> None:
        self._gateway, self._engine = gateway, engine

    def __getattr__(self, name: str) -> Function:
        def call(*arguments: Any, **named: Any) -> Any:
            with self._engine.begin() as connection:
                connection.exec_driver_sql("SELECT 1")
                return getattr(self._gateway, name)(*arguments, **named)

        return call


# -- tables


def no_answer_declined(outcomes: Any) -> Any:
    return {
        key: Outcome.DECLINED if key[0] is Problem.NO_ANSWER and outcome is Outcome.UNKNOWN else outcome
        for key, outcome in outcomes.items()
    }


def not_sent_declined(handlers: Any) -> Any:
    return {**handlers, Outcome.NOT_SENT: after_decline}


def blind_to_newer_cards(handlers: Any) -> Any:
    """A decline is handled as if the attempt had been made with today's card."""

    def after_decline_of_todays_card(connection: Any, locked: Locked, answer: Answer, actor: str) -> None:
        attempt: Any = locked.attempt
        if attempt is not None:
            attempt = SimpleNamespace(**{**attempt._mapping, "card_revision": locked.settings.card_revision})
        after_decline(connection, replace(locked, attempt=attempt), answer, actor)

    return {**handlers, Outcome.DECLINED: after_decline_of_todays_card}


def without_source(name: str) -> Callable[[Any], Any]:
    """The table of due work without one of its sources. LookupError if it has none of that name."""

    def change(sources: Any) -> Any:
        left = tuple(source for source in sources if source.name != name)
        if len(left) == len(sources):
            raise LookupError(f"there is no source {name!r}")
        return left

    return change
