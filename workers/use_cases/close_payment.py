"""Close one payment that an operator writes off or voids: cancel its PaymentIntent first, then close it."""

from uuid import UUID

import structlog

from shared.db.session import in_turn
from shared.failpoints import Failpoint, reach
from shared.payments.cancellation import claim_cancellation
from shared.payments.claim import Claimed
from shared.runtime import Runtime
from workers.use_cases.charge_payment import send_claimed

log = structlog.get_logger()


def close_payment(runtime: Runtime, payment_id: UUID) -> None:
    """Take the next step of a pending close. Safe to deliver twice: the attempt is claimed.

    If the PaymentIntent is canceled, the payment is closed; if money arrived, it is paid. Otherwise it stays as it
    is, and the sweep enqueues it again.
    """
    reach(Failpoint.END_BEGUN)
    claimed = in_turn(
        runtime.engine,
        lambda connection: claim_cancellation(connection, runtime, payment_id),
        f"close of {payment_id}",
    )
    reach(Failpoint.END_CLAIMED)
    if not isinstance(claimed, Claimed):
        log.debug("close.not_claimed", payment_id=str(payment_id), result=str(claimed))
        return
    send_claimed(runtime, claimed)
