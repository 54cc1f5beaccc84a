"""What a charge at the processor means beside our books. Pure: what was gathered goes in, findings come out."""

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

    Two of them are also found, and named alike, by the record of an answer: the same thing is one finding.
    """

    PAID_THERE_OPEN_HERE = "paid_there_open_here"
    AMOUNT_DIFFERS = "amount_differs"
    CHARGE_WITHOUT_PAYMENT = "charge_without_payment"
    PAID_WITHOUT_CHARGE = "paid_without_charge"
    PAID_MORE_THAN_ONCE = "paid_more_than_once"
    ORPHAN_PAYMENT_INTENT = "orphan_payment_intent"


class Weighed(StrEnum):
    """How a charge is counted."""

    AGREES = "agrees"
    DIFFERS = "differs"
    ON_ITS_WAY = "on_their_way"  # its payment has an open attempt, which will tell
    OF_ANOTHER_COVERAGE = "of_another_coverage"  # on the same account at the processor; that one's night sees it
    FOREIGN = "foreign"  # not ours at all


@dataclass(frozen=True)
class Found:
    """Something that a person must look at, unless the machine can mend it first. Details: ids, codes, amounts."""

    kind: Kind
    subject: str
    details: Mapping[str, Any]
    payment_id: UUID | None = None
    account_id: UUID | None = None
    #: The PaymentIntent whose record would put our books right.
    mends: str | None = None


@dataclass(frozen=True)
class Booked:
    """Our receipt of a charge. `is_later`: another receipt of its payment was there before."""

    payment_id: UUID
    amount_minor: int
    currency: str
    is_later: bool


@dataclass(frozen=True)
class InBooks:
    """What our books say of one charge at the processor."""

    payment_id: UUID | None = None
    account_id: UUID | None = None
    payment_state: PaymentState | None = None
    amount_minor: int = 0
    currency: str = ""
    has_payment_intent: bool = False
    is_customer_ours: bool = False
    has_open_attempt: bool = False
    receipt: Booked | None = None
    has_other_receipt: bool = False
    #: We began to mend it, tonight or in a night that was broken off.
    is_being_mended: bool = False


@dataclass(frozen=True)
class Verdict:
    """What one charge is counted as, and what was found about it."""

    weighed: Weighed
    found: tuple[Found, ...] = field(default=())
    #: An open finding says that its money is to be booked: that is to be closed once it is.
    is_being_mended: bool = False


def classify_charge(charge: ChargeReadBack, books: InBooks, coverage: str, coverages: Collection[str]) -> Verdict:
    """Judge a succeeded charge of the account that `coverage` has at the processor."""
    said = charge.metadata.get(COVERAGE)
    if said != coverage and said in coverages:
        return Verdict(Weighed.OF_ANOTHER_COVERAGE)
    is_ours = PAYMENT_ID in charge.metadata or books.has_payment_intent or books.is_customer_ours
    if not is_ours:
        return Verdict(Weighed.FOREIGN)
    if books.payment_id is None:
        return Verdict(Weighed.DIFFERS, (_without_payment(charge),))
    if books.receipt is None and books.has_open_attempt:
        return Verdict(Weighed.ON_ITS_WAY, is_being_mended=books.is_being_mended)
    found = (*_not_booked(charge, books), *_more_than_once(charge, books), *_differs(charge, books))
    return Verdict(Weighed.DIFFERS if found else Weighed.AGREES, found, books.is_being_mended)


def facts_of(charge: ChargeReadBack) -> dict[str, Any]:
    """A charge as findings show it; the record of an answer writes the same."""
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


def _not_booked(charge: ChargeReadBack, books: InBooks) -> tuple[Found, ...]:
    if books.receipt is not None or _is_second(books):
        return ()
    return (_of_payment(Kind.PAID_THERE_OPEN_HERE, charge, books, mends=charge.stripe_payment_intent_id),)


def _more_than_once(charge: ChargeReadBack, books: InBooks) -> tuple[Found, ...]:
    if books.receipt is None:
        mends = charge.stripe_payment_intent_id
        return (_of_payment(Kind.PAID_MORE_THAN_ONCE, charge, books, mends=mends),) if _is_second(books) else ()
    return (_of_payment(Kind.PAID_MORE_THAN_ONCE, charge, books),) if books.receipt.is_later else ()


def _is_second(books: InBooks) -> bool:
    return books.payment_state is PaymentState.PAID and books.has_other_receipt


def _differs(charge: ChargeReadBack, books: InBooks) -> tuple[Found, ...]:
    """The charge against what was asked for, and against what was booked."""
    there, receipt = (charge.amount_captured_minor, charge.currency), books.receipt
    wrongly: dict[str, Any] = {}
    if receipt is not None and there != (receipt.amount_minor, receipt.currency):
        wrongly = {"booked_minor": receipt.amount_minor, "booked_currency": receipt.currency}
    if receipt is not None and receipt.payment_id != books.payment_id:
        wrongly["booked_payment_id"] = str(receipt.payment_id)
    if not wrongly and there == (books.amount_minor, books.currency):
        return ()
    return (_of_payment(Kind.AMOUNT_DIFFERS, charge, books, **wrongly),)


def _of_payment(
    kind: Kind, charge: ChargeReadBack, books: InBooks, *, mends: str | None = None, **details: Any
) -> Found:
    return Found(
        kind,
        charge.stripe_id,
        {**facts_of(charge), **details},
        payment_id=books.payment_id,
        account_id=books.account_id,
        mends=mends,
    )
