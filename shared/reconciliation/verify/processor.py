"""Compares our records with the processor's: lists its charges into a temporary table, next to our receipts.

It lists first and compares afterwards, on one snapshot. A charge whose attempt is still open will be recorded, and
a receipt younger than the listing can't be in it. Neither is a break.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from shared.gateway.port import ChargeReadBack, GatewayUnavailableError, ProcessorGateway
from shared.reconciliation.verify.check import Check
from shared.reconciliation.verify.scope import Scope

#: Charges written at a time: ten pages of the processor's list.
BATCH = 1_000
#: The clocks of two companies differ, and a charge is made before its receipt is written.
MARGIN = timedelta(days=1)

CREATE = """
    CREATE TEMPORARY TABLE processor_charges (
        coverage text NOT NULL, charge_id text NOT NULL, stripe_payment_intent_id text, payment_id uuid,
        amount_minor bigint NOT NULL, currency text NOT NULL, made_at timestamptz NOT NULL,
        is_ours boolean NOT NULL,
        PRIMARY KEY (coverage, charge_id)
    )
"""
_INSERT = """
    INSERT INTO processor_charges VALUES (:coverage, :charge_id, :stripe_payment_intent_id, :payment_id,
                                          :amount_minor, :currency, :made_at, :is_ours)
    ON CONFLICT DO NOTHING
"""
#: A charge is ours by our metadata, or by its PaymentIntent.
_RECOGNIZE = """
    UPDATE processor_charges s SET payment_id = coalesce(s.payment_id, i.payment_id), is_ours = true
    FROM payment_intents i
    WHERE i.coverage = s.coverage AND i.stripe_payment_intent_id = s.stripe_payment_intent_id AND NOT s.is_ours
"""


@dataclass(frozen=True)
class Listed:
    """What was listed: since when (database time), which coverages, and why the others could not be listed."""

    began_at: datetime
    coverages: tuple[str, ...]
    not_listed: Mapping[str, str]
    charges: int
    foreign: int


def list_into_table(
    connection: Connection,
    scope: Scope,
    gateways: Mapping[str, ProcessorGateway],
    coverages: Iterable[str],
    on_charges: Callable[[int], None],
) -> Listed:
    """Fill `processor_charges` with paid charges, in bounded memory; `connection` is in autocommit."""
    connection.execute(text("DROP TABLE IF EXISTS processor_charges"))
    connection.execute(text(CREATE))
    began_at: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    listed: list[str] = []
    not_listed: dict[str, str] = {}
    charges = 0
    for coverage in coverages:
        gateway = gateways.get(coverage)
        if gateway is None:
            not_listed[coverage] = f"STRIPE_API_KEYS has no key for {coverage}"
            continue
        try:
            for batch in _batches(gateway.list_charges(*_window(connection, scope, coverage))):
                connection.execute(text(_INSERT), [_row(coverage, charge) for charge in batch])
                charges += len(batch)
                on_charges(charges)
            listed.append(coverage)
        except GatewayUnavailableError as error:
            not_listed[coverage] = f"the processor didn't list the charges of {coverage}: {error}"
    connection.execute(text(_RECOGNIZE))
    connection.execute(text("ANALYZE processor_charges"))
    foreign = connection.execute(text("SELECT count(*) FROM processor_charges WHERE NOT is_ours")).scalar_one()
    return Listed(began_at, tuple(listed), not_listed, charges, foreign)


def _window(connection: Connection, scope: Scope, coverage: str) -> tuple[datetime, datetime]:
    """From before the first attempt that could have charged in the window, until after its last (business time)."""
    first = connection.scalar(
        text("""
            SELECT least(CAST(:begins_at AS timestamptz), min(a.started_at))
            FROM payment_attempts a LEFT JOIN receipts r ON r.attempt_id = a.id
            WHERE a.coverage = :one AND (CAST(:begins_at AS timestamptz) IS NULL OR r.received_at >= :begins_at)
        """),
        {"begins_at": scope.begins_at, "one": coverage},
    )
    return (first or scope.now) - MARGIN, (scope.ends_at or scope.now) + MARGIN


def _batches(charges: Iterator[ChargeReadBack]) -> Iterator[list[ChargeReadBack]]:
    paid = (charge for charge in charges if charge.is_paid and charge.amount_captured_minor > 0)
    while batch := list(islice(paid, BATCH)):
        yield batch


def _row(coverage: str, charge: ChargeReadBack) -> dict[str, Any]:
    said = charge.metadata.get("duecourse_payment_id")
    return {
        "coverage": charge.metadata.get("duecourse_coverage", coverage),
        "charge_id": charge.stripe_id,
        "stripe_payment_intent_id": charge.stripe_payment_intent_id,
        "payment_id": _uuid(said),
        "amount_minor": charge.amount_captured_minor,
        "currency": charge.currency,
        "made_at": charge.created_at,
        "is_ours": said is not None,
    }


def _uuid(said: str | None) -> UUID | None:
    try:
        return UUID(said) if said else None
    except ValueError:
        return None


_IN_WINDOW = """
    s.is_ours AND (CAST(:begins_at AS timestamptz) IS NULL OR s.made_at >= :begins_at)
    AND (CAST(:ends_at AS timestamptz) IS NULL OR s.made_at < :ends_at)
"""
_ON_ITS_WAY = """EXISTS (
    SELECT FROM payment_attempts a WHERE a.payment_id = s.payment_id AND a.state IN ('started', 'unknown')
)"""
_SAME_CHARGE = "r.coverage = s.coverage AND r.stripe_charge_id IN (s.charge_id, s.stripe_payment_intent_id)"
#: Receipts that the listing must contain: older than it, of a listed coverage, received in the window.
_EXPECTED = """
    r.coverage = ANY(:listed) AND r.stripe_charge_id IS NOT NULL AND r.created_at <= :listed_at
    AND (CAST(:begins_at AS timestamptz) IS NULL OR r.received_at >= :begins_at)
    AND (CAST(:ends_at AS timestamptz) IS NULL OR r.received_at < :ends_at)
"""

PROCESSOR = (
    Check(
        "charge-has-receipt",
        "every charge of ours at the processor has a receipt",
        "charges",
        f"""
        SELECT s.coverage, s.charge_id, s.stripe_payment_intent_id, s.payment_id, s.currency, s.amount_minor,
               s.made_at, coalesce(p.state, 'not in this database') AS state
        FROM {{charges}} s LEFT JOIN payments p ON p.id = s.payment_id
        WHERE {_IN_WINDOW} AND NOT EXISTS (SELECT FROM receipts r WHERE {_SAME_CHARGE}) AND NOT {_ON_ITS_WAY}
        """,  # noqa: S608  # our own constants
        "{coverage} charge {charge_id} of {amount_minor} ({made_at}) has no receipt; payment {payment_id} is "
        "{state}",
        "money was taken without a receipt: stop the workers, hold the payment, record the money or refund it",
        needs_processor=True,
    ),
    Check(
        "receipt-has-charge",
        "every receipt has a charge at the processor",
        "receipts",
        f"""
        SELECT r.coverage, r.id AS receipt_id, r.payment_id, r.stripe_charge_id, r.currency, r.amount_minor
        FROM receipts r
        WHERE {_EXPECTED} AND NOT EXISTS (SELECT FROM {{charges}} s WHERE {_SAME_CHARGE})
        """,  # noqa: S608
        "payment {payment_id}: receipt of {amount_minor} for charge {stripe_charge_id}, unknown to the processor",
        "find the charge at the processor; is this the right Stripe account and database?",
        needs_processor=True,
    ),
    Check(
        "charge-as-booked",
        "charge and receipt agree in amount, currency and payment",
        "charges",
        f"""
        SELECT s.coverage, s.charge_id, s.payment_id, s.currency, s.amount_minor, r.payment_id AS booked_payment_id,
               r.amount_minor AS booked_units, r.currency AS booked_currency
        FROM {{charges}} s JOIN receipts r ON {_SAME_CHARGE}
        WHERE s.amount_minor <> r.amount_minor OR s.currency <> r.currency
           OR s.payment_id IS DISTINCT FROM r.payment_id
        """,  # noqa: S608
        "{coverage} charge {charge_id} of {amount_minor} for payment {payment_id} has a receipt of {booked_units} "
        "minor units of {booked_currency} for payment {booked_payment_id}",
        "the processor's amount is the money: record the difference in your accounts and report a defect",
        needs_processor=True,
    ),
    Check(
        "charged-once",
        "the processor has one charge per payment",
        "charges",
        """
        SELECT s.coverage, s.payment_id, s.currency, count(*) AS charges, sum(s.amount_minor) AS charged_minor,
               string_agg(s.charge_id, ', ' ORDER BY s.made_at, s.charge_id) AS charge_ids
        FROM {charges} s WHERE s.is_ours AND s.payment_id IS NOT NULL
        GROUP BY s.coverage, s.payment_id, s.currency HAVING count(*) > 1
        """,
        "payment {payment_id} was charged {charges} times, {charged_minor} in total: {charge_ids}",
        "refund all but one today, and report a defect",
        needs_processor=True,
    ),
    Check(
        "sums-agree",
        "sums per coverage and currency are equal on both sides",
        "charges",
        f"""
        SELECT coverage, currency, sum(theirs) AS theirs_minor, sum(ours) AS ours_minor,
               sum(theirs) - sum(ours) AS difference_minor
        FROM (
            SELECT s.coverage, s.currency, s.amount_minor AS theirs, 0 AS ours FROM {{charges}} s
            WHERE {_IN_WINDOW}
              AND (EXISTS (SELECT FROM receipts r WHERE {_SAME_CHARGE}) OR NOT {_ON_ITS_WAY})
            UNION ALL
            SELECT r.coverage, r.currency, 0, r.amount_minor FROM receipts r JOIN {{charges}} s ON {_SAME_CHARGE}
            WHERE {_IN_WINDOW}
            UNION ALL
            SELECT r.coverage, r.currency, 0, r.amount_minor FROM receipts r
            WHERE {_EXPECTED} AND NOT EXISTS (SELECT FROM {{charges}} s WHERE {_SAME_CHARGE})
        ) both_sides
        GROUP BY coverage, currency HAVING sum(theirs) <> sum(ours)
        """,  # noqa: S608
        "{coverage}: the processor has {theirs_minor}, our records {ours_minor}, difference {difference_minor}",
        "the checks above name the charges and receipts that differ",
        needs_processor=True,
    ),
)

#: Both sides' sums for the report, equal or not.
SUMS = f"""
    SELECT s.coverage, s.currency, count(*) AS charges, sum(s.amount_minor) AS theirs_minor,
           coalesce(sum(r.amount_minor), 0) AS ours_minor
    FROM processor_charges s LEFT JOIN receipts r ON {_SAME_CHARGE} AND r.currency = s.currency
    WHERE {_IN_WINDOW}
    GROUP BY s.coverage, s.currency ORDER BY s.coverage, s.currency
"""  # noqa: S608
