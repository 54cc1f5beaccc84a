"""Charge one payment: claim, create, confirm, record. No transaction is open during a request."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import structlog

from shared.db.session import in_transaction, in_turn
from shared.domain.states import AttemptKind
from shared.failpoints import Failpoint, reach
from shared.gateway.port import (
    Answer,
    GatewayRefusedError,
    GatewayUnavailableError,
    Outcome,
    ProcessorGateway,
    request,
)
from shared.payments.claim import Claimed, NotClaimed, allow_confirm, claim_charge
from shared.payments.record_outcome import record_answer
from shared.runtime import Runtime

log = structlog.get_logger()

#: A request is sent only with this much of the lease left: more than connect and read timeouts together, so
#: that settlement never looks an attempt up while its answer may still arrive.
LEASE_MARGIN = timedelta(seconds=60)


def charge_payment(runtime: Runtime, payment_id: UUID) -> None:
    """Charge one payment if it is due. Safe to deliver twice: the attempt is claimed first."""
    reach(Failpoint.CHARGE_BEGUN)
    claimed = in_turn(
        runtime.engine, lambda connection: claim_charge(connection, runtime, payment_id), f"charge of {payment_id}"
    )
    if claimed is None:
        return
    reach(Failpoint.CHARGE_CLAIMED)
    if isinstance(claimed, NotClaimed):
        log.debug("charge.not_claimed", payment_id=str(payment_id), reason=claimed.reason)
        return
    send_claimed(runtime, claimed)


def send_claimed(runtime: Runtime, claimed: Claimed) -> None:
    """Send the claimed charge or cancellation to the processor, and record its answer."""
    answer = _request(runtime, claimed)
    if answer is not None and answer.is_refused:
        answer = _with_missing(runtime.gateways[claimed.coverage], claimed, answer)
    if answer is None:
        log.warning("charge.overtaken", attempt_id=str(claimed.attempt_id), consequence="settlement owns it")
        return
    record_answer(runtime, claimed.attempt_id, answer)
    reach(Failpoint.CHARGE_RECORDED)
    log.info(
        "charge.answered",
        payment_id=str(claimed.payment_id),
        attempt_id=str(claimed.attempt_id),
        kind=claimed.kind,
        outcome=answer.outcome,
        code=answer.code,
        request_id=answer.request_id,
    )


def _request(runtime: Runtime, claimed: Claimed) -> Answer | None:
    """Create the PaymentIntent if needed, commit its id, then confirm; None if settlement took the attempt."""
    gateway = runtime.gateways.get(claimed.coverage)
    if gateway is None:
        reason = f"STRIPE_API_KEYS has no key for coverage {claimed.coverage}"
        return Answer(Outcome.NOT_SENT, reason, needs_attention=True)
    stripe_id = claimed.stripe_payment_intent_id
    if stripe_id is None:
        created = request(
            "charge.create", gateway.create_payment_intent, claimed.create_parameters, claimed.create_key
        )
        if created.payment_intent is None:
            # It isn't confirmed, so it moves no money. The same key returns it again, unless the key is spent:
            # then recording the answer abandons it, and the next claim creates another.
            return replace(created, outcome=Outcome.NOT_SENT, reason=f"no PaymentIntent: {created.reason}")
        stripe_id = created.payment_intent.stripe_id
        shown, machine_now = created.payment_intent, runtime.machine_now
        is_allowed = in_transaction(
            runtime.engine,
            lambda connection: allow_confirm(connection, claimed, shown, machine_now()),
            step="charge.confirm_allow",
        )
        if not is_allowed:
            return None
    if runtime.machine_now() + min(LEASE_MARGIN, runtime.lease / 2) > claimed.lease_expires_at:
        return Answer(Outcome.NOT_SENT, "the lease was about to expire before the request was sent")
    return _send(gateway, claimed, stripe_id)


def _with_missing(gateway: ProcessorGateway, claimed: Claimed, answer: Answer) -> Answer:
    """Find out whether a refused charge's card or customer is gone: its webhook may be late or lost.

    Without an answer to that, the refusal says nothing yet: the charge backs off, and the next try finds out.
    """
    if claimed.kind is AttemptKind.CANCEL or claimed.stripe_payment_method_id is None:
        return answer
    customer_id = claimed.create_parameters["customer"]
    try:
        missing = request("charge.refused", gateway.find_missing, customer_id, claimed.stripe_payment_method_id)
    except GatewayRefusedError:
        return answer
    except GatewayUnavailableError as error:
        return replace(answer, is_refused=False, reason=f"{answer.reason}; why isn't known yet: {error}")
    return replace(answer, missing=missing)


def _send(gateway: ProcessorGateway, claimed: Claimed, stripe_id: str) -> Answer:
    if claimed.kind is AttemptKind.CANCEL:
        return request("charge.cancel", gateway.cancel_payment_intent, stripe_id, claimed.attempt_key)
    if claimed.stripe_payment_method_id is None:
        raise AssertionError("a charge is claimed with its card")
    return request(
        "charge.confirm",
        gateway.confirm_payment_intent,
        stripe_id,
        claimed.stripe_payment_method_id,
        claimed.attempt_key,
    )
