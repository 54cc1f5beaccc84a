"""Invalid messages: no actor of this release can take them. They are enqueued as any Redis client could."""

from typing import Any
from uuid import UUID, uuid4

from dramatiq import Message
from dramatiq.common import current_millis

from local.chaos.context import ChaosContext, Injectors
from local.chaos.plan import Planned
from shared.messaging.broker import NAMESPACE, DoorbellBroker, make_broker

_OF_QUEUE = {"interactive": "apply_stripe_event", "batch": "charge_payment", "runs": "generate_invoices"}
_A_DUE_PAYMENT = """
    SELECT id FROM payments WHERE state IN ('due', 'retry_scheduled') ORDER BY next_attempt_at LIMIT 1
"""


def undecodable(context: ChaosContext, fault: Planned) -> None:
    """Bytes that can't be decoded."""
    _put(context, fault, lambda _message_id: b"\x80\x04 this is no message")


def unknown_actor(context: ChaosContext, fault: Planned) -> None:
    """The name of an actor that doesn't exist."""
    _put(context, fault, _message(fault.target, "charge_everything", (str(uuid4()),)))


def wrong_arguments(context: ChaosContext, fault: Planned) -> None:
    """An invalid id, or arguments of the wrong type."""
    actor = _OF_QUEUE[fault.target]
    arguments = ("not-a-uuid",) if actor != "apply_stripe_event" else (17, {"coverage": None})
    _put(context, fault, _message(fault.target, actor, arguments))


def argument_missing(context: ChaosContext, fault: Planned) -> None:
    """A message of the previous release, with one argument fewer."""
    _put(context, fault, _message(fault.target, _OF_QUEUE[fault.target], ()))


def argument_added(context: ChaosContext, fault: Planned) -> None:
    """A message of the next release, about a due payment, with one argument more."""
    rows = context.company.rows(_A_DUE_PAYMENT)
    payment_id: UUID = rows[0].id if rows else uuid4()
    _put(context, fault, _message(fault.target, _OF_QUEUE[fault.target], (str(payment_id), "new-argument")))


def _message(queue: str, actor: str, arguments: tuple[Any, ...]) -> Any:
    def body(message_id: str) -> bytes:
        message: Message[Any] = Message(
            queue_name=queue,
            actor_name=actor,
            args=arguments,
            kwargs={},
            options={"redis_message_id": message_id},
        )
        return message.encode()

    return body


def _put(context: ChaosContext, fault: Planned, body: Any) -> None:
    """Enqueue bytes the way the pinned Dramatiq does, without asking whether they make sense."""
    broker = make_broker(context.company.redis_url)
    assert isinstance(broker, DoorbellBroker)  # noqa: S101  # for mypy
    message_id = str(uuid4())
    try:
        broker.scripts["dispatch"](
            keys=[NAMESPACE],
            args=[
                "enqueue",
                current_millis(),
                fault.target,
                broker.broker_id,
                broker.heartbeat_timeout,
                broker.dead_message_ttl,
                0,
                1,
                message_id,
                body(message_id),
            ],
            client=broker.client,
        )
    finally:
        broker.client.close()
    context.record_hit(fault.kind)


INJECTORS: Injectors = {
    "message_undecodable": undecodable,
    "message_unknown_actor": unknown_actor,
    "message_wrong_arguments": wrong_arguments,
    "message_argument_missing": argument_missing,
    "message_argument_added": argument_added,
}
