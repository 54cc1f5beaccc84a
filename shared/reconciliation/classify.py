"""Classifies a charge at the processor against our records. Pure: records go in, findings come out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from shared.domain.states import PaymentState
from shared.gateway.port import ChargeReadBack

PAYMENT_ID = "duecourse_payment_id"
COVERAGE = "duecourse_coverage"
ORDINAL = "duecourse_ordinal"


class Kind(StrEnum):
    """Kinds of finding. Permanent names; `shared/explain/descriptions.py` describes each and says what to do.

    Recording an outcome writes two of them under the same names, so that the same problem is one finding.
    """

    PAID_THERE_OPEN_HERE = "paid_there_open_here"
    AMOUNT_DIFFERS = "amount_differs"
    CHARGE_WITHOUT_PAYMENT = "charge_without_payment"
    PAID_WITHOUT_CHARGE = "paid_without_charge"
    PAID_MORE_THAN_ONCE = "paid_more_than_once"
    ORPHAN_PAYMENT_INTENT = "orphan_payment_intent"
    STRIPE_EVENTS_NOT_LISTED = "stripe_events_not_listed"


class CountedAs(StrEnum):
    """How a charge is counted."""

    AGREES = "agrees"
    DIFFERS = "differs"
    HAS_OPEN_ATTEMPT = "on_their_way"  # its payment has an open attempt, whose outcome will be recorded
    OF_ANOTHER_COVERAGE = "of_another_coverage"  # same account at the processor; that coverage's run compares it
    FOREIGN = "foreign"  # not Duecourse's


@dataclass(frozen=True)
class Found:
    """A difference that an operator must look at, unless it can be fixed first. Details: ids, codes, amounts."""

    kind: Kind
    subject: str
    details: Mapping[str, Any]
    payment_id: UUID | None = None
    account_id: UUID | None = None
    #: The PaymentIntent whose recording fixes our records.
    fixed_by: str | None = None


@dataclass(frozen=True)
class KnownReceipt:
    """Our receipt of a charge. `is_later`: its payment has an earlier receipt."""

    payment_id: UUID
    amount_minor: int
    currency: str
    is_later: bool


@dataclass(frozen=True)
class OurRecords:
    """What our records say about one charge at the processor."""

    payment_id: UUID | None = None
    account_id: UUID | None = None
    payment_state: PaymentState | None = None
    amount_minor: int = 0
    currency: str = ""
    has_payment_intent: bool = False
    is_customer_ours: bool = False
    has_open_attempt: bool = False
    receipt: KnownReceipt | None = None
    has_other_receipt: bool = False
    #: We began to fix it, in this run or in one that was interrupted.
    is_being_fixed: bool = False


@dataclass(frozen=True)
class Verdict:
    """How one charge is counted, and what was found about it."""

    counted_as: CountedAs
    found: tuple[Found, ...] = field(default=())
    #: An open finding says that its money must be recorded. The finding is resolved once it is.
    is_being_fixed: bool = False


def classify_charge(
    charge: ChargeReadBack, records: OurRecords, coverage: str, coverages: Collection[str]
) -> Verdict:
    """Classify a succeeded charge on the account that `coverage` has at the processor."""
    tagged_coverage = charge.metadata.get(COVERAGE)
    if tagged_coverage != coverage and tagged_coverage in coverages:
        return Verdict(CountedAs.OF_ANOTHER_COVERAGE)
    is_ours = PAYMENT_ID in charge.metadata or records.has_payment_intent or records.is_customer_ours
    if not is_ours:
        return Verdict(CountedAs.FOREIGN)
    if records.payment_id is None:
        return Verdict(CountedAs.DIFFERS, (_without_payment(charge),))
    if records.receipt is None and records.has_open_attempt:
        return Verdict(CountedAs.HAS_OPEN_ATTEMPT, is_being_fixed=records.is_being_fixed)
    found = (*_without_receipt(charge, records), *_more_than_once(charge, records), *_differs(charge, records))
    return Verdict(CountedAs.DIFFERS if found else CountedAs.AGREES, found, records.is_being_fixed)


def facts_of(charge: ChargeReadBack) -> dict[str, Any]:
    """A charge's details as findings show them. Recording an outcome writes the same details."""
    return {
        "charge_id": charge.stripe_id,
        "received_minor": charge.amount_captured_minor,
        "currency": charge.currency,
    }


def _without_payment(charge: ChargeReadBack) -> Found:
    details = {
        **facts_of(charge),
        "payment_intent_id": charge.stripe_payment_intent_id,
        "stripe_customer_id": charge.stripe_customer_id,
        "payment_id_there": charge.metadata.get(PAYMENT_ID),
    }
    return Found(Kind.CHARGE_WITHOUT_PAYMENT, charge.stripe_id, details)


def _without_receipt(charge: ChargeReadBack, records: OurRecords) -> tuple[Found, ...]:
    if records.receipt is not None or _is_second(records):
        return ()
    return (_of_payment(Kind.PAID_THERE_OPEN_HERE, charge, records, fixed_by=charge.stripe_payment_intent_id),)


def _more_than_once(charge: ChargeReadBack, records: OurRecords) -> tuple[Found, ...]:
    if records.receipt is None:
        fixed_by = charge.stripe_payment_intent_id
        return (
            (_of_payment(Kind.PAID_MORE_THAN_ONCE, charge, records, fixed_by=fixed_by),)
            if _is_second(records)
            else ()
        )
    return (_of_payment(Kind.PAID_MORE_THAN_ONCE, charge, records),) if records.receipt.is_later else ()


def _is_second(records: OurRecords) -> bool:
    return records.payment_state is PaymentState.PAID and records.has_other_receipt


def _differs(charge: ChargeReadBack, records: OurRecords) -> tuple[Found, ...]:
    """Compare the charge with its payment's amount and with its receipt."""
    there, receipt = (charge.amount_captured_minor, charge.currency), records.receipt
    wrongly: dict[str, Any] = {}
    if receipt is not None and there != (receipt.amount_minor, receipt.currency):
        wrongly = {"booked_minor": receipt.amount_minor, "booked_currency": receipt.currency}
    if receipt is not None and receipt.payment_id != records.payment_id:
        wrongly["booked_payment_id"] = str(receipt.payment_id)
    if not wrongly and there == (records.amount_minor, records.currency):
        return ()
    return (_of_payment(Kind.AMOUNT_DIFFERS, charge, records, **wrongly),)


def _of_payment(
    kind: Kind, charge: ChargeReadBack, records: OurRecords, *, fixed_by: str | None = None, **details: Any
) -> Found:
    return Found(
        kind,
        charge.stripe_id,
        {**facts_of(charge), **details},
        payment_id=records.payment_id,
        account_id=records.account_id,
        fixed_by=fixed_by,
    )
