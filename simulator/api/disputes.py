"""Refunds and disputes: what users of Stripe's dashboard and cardholders' banks do to a captured charge.

The ledger keeps what was captured: a refund and a dispute move other money. Stripe's event order for a dispute:
`charge.dispute.created`, and `funds_withdrawn` unless it is an inquiry; at its end `closed`, and `funds_reinstated`
if it was won (docs.stripe.com/disputes/how-disputes-work, docs.stripe.com/api/events/types).
"""

from dataclasses import replace

from simulator.api.call import Call
from simulator.api.errors import bad_parameter, refused
from simulator.api.views import Json, render
from simulator.store.records import Charge, Dispute

OPEN = ("needs_response", "warning_needs_response")


def refund_charge(call: Call) -> Json:
    """Refund a charge, or a part of what is left of it."""
    charge = call.subject(Charge)
    left = charge.amount_captured - charge.amount_refunded
    amount = call.given("amount") or left
    if not 1 <= amount <= left:
        raise bad_parameter(f"Refund amount must be between 1 and {left}.", "amount", "charge_already_refunded")
    refunded = replace(charge, amount_refunded=charge.amount_refunded + amount)
    call.store.save(refunded)
    call.emit("charge.refunded", refunded)
    return render(refunded)


def open_dispute(call: Call) -> Json:
    """The cardholder's bank disputes a charge; an inquiry moves no money yet."""
    charge = call.subject(Charge)
    if not charge.captured or charge.disputed:
        raise refused("Only a captured charge that isn't disputed yet can be disputed.")
    is_inquiry = bool(call.given("is_inquiry"))
    dispute = Dispute(
        id=call.new_id(Dispute),
        account=call.account,
        created=call.now,
        charge=charge.id,
        payment_intent=charge.payment_intent,
        amount=charge.amount_captured,
        currency=charge.currency,
        reason=call.given("reason") or "fraudulent",
        status="warning_needs_response" if is_inquiry else "needs_response",
        brand=charge.brand,
        moves=[] if is_inquiry else [-charge.amount_captured],
    )
    call.store.add(dispute)
    call.store.save(replace(charge, disputed=True))
    call.emit("charge.dispute.created", dispute)
    if not is_inquiry:
        call.emit("charge.dispute.funds_withdrawn", dispute)
    return render(dispute)


def close_dispute(call: Call) -> Json:
    """The bank decides; if we win, the money comes back."""
    dispute = call.subject(Dispute)
    if dispute.status not in OPEN:
        raise refused(f"The dispute is closed already: {dispute.status}.")
    is_won = bool(call.given("is_won"))
    if dispute.status == "warning_needs_response":
        closed = replace(dispute, status="warning_closed")
    elif is_won:
        closed = replace(dispute, status="won", moves=[*dispute.moves, dispute.amount])
    else:
        closed = replace(dispute, status="lost")
    call.store.save(closed)
    call.emit("charge.dispute.closed", closed)
    if closed.moves != dispute.moves:
        call.emit("charge.dispute.funds_reinstated", closed)
    return render(closed)


def retrieve_dispute(call: Call) -> Json:
    return render(call.subject(Dispute))
