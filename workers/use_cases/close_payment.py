"""End one payment that a person wants written off or void: cancel its PaymentIntent, see it canceled, end it."""

from uuid import UUID

import structlog

from shared.db.session import in_turn
from shared.failpoints import Failpoint, reach
from shared.payments.cancellation import claim_cancellation
from shared.payments.claim import Claimed
from shared.runtime import Runtime
from workers.use_cases.charge_payment import carry_out

log = structlog.get_logger()


def close_payment(runtime: Runtime, payment_id: UUID) -> None:
    """Bring one payment nearer to the end that a person asked for. Safe to deliver twice: the attempt is claimed.

    What the cancellation's record finds decides: canceled, and the payment ends; money, and it is paid. Without
    either it stays as it is, and the sweep rings again.
    """
    reach(Failpoint.END_BEGUN)
    claimed = in_turn(
        runtime.engine,
        lambda connection: claim_cancellation(connection, runtime, payment_id),
        f"end of {payment_id}",
    )
    reach(Failpoint.END_CLAIMED)
    if not isinstance(claimed, Claimed):
        log.debug("end.not_claimed", payment_id=str(payment_id), what=str(claimed))
        return
    carry_out(runtime, claimed)
