"""Breakages of what is owed: month start, amounts, and the days that it all happens on."""

from tests.breakages.breakage import Breakage, Patch

BILLS = "shared/invoicing/bills.py"
CHUNK = "shared/invoicing/chunk.py"
CALENDAR = "shared/domain/calendar.py"

RUNS = "invoicing/test_runs.py::"
BILLED = "invoicing/test_what_is_billed.py::"
CALENDARS = "diaries/test_calendar.py::"
CHARGES = "collection/test_charge_payment.py::"
MOMENTS = "diaries/test_at_the_same_moment.py::"
ALREADY_INVOICED = "AND i.period = :first_day AND i.corrects_invoice_id IS NULL"
CARRIES = f"{BILLED}test_below_the_minimum_is_carried_into_the_next_month"

MONTH_START = (
    Breakage(
        "how-people-pay-not-locked-at-month-start",
        "month start reads who pays by which card without a lock: a registration beside it isn't seen, nor sees it",
        ("I4", "I15"),
        (
            f"{RUNS}test_a_change_of_how_somebody_pays_is_waited_for",
            f"{MOMENTS}test_a_card_registered_inside_an_open_chunk_of_month_start_pays_once",
        ),
        (Patch(BILLS, '_CANDIDATES + "FOR SHARE OF s"', "_CANDIDATES"),),
    ),
    Breakage(
        "fees-not-locked-at-month-start",
        "a fee may be corrected while it becomes a line",
        ("I4",),
        (f"{RUNS}test_a_fee_corrected_while_month_start_runs_is_billed_as_corrected",),
        (
            Patch(
                BILLS,
                'LOCKED_LINES = _LINES.format(lock="FOR UPDATE OF f")',
                'LOCKED_LINES = _LINES.format(lock="")',
            ),
        ),
    ),
    Breakage(
        "second-invoice-of-a-month",
        "month start doesn't ask who has an invoice already; only the index stands in the way",
        ("I1",),
        (f"{RUNS}test_going_over_a_finished_run_again_issues_nothing_new",),
        (Patch(BILLS, ALREADY_INVOICED, "AND false"),),
    ),
    Breakage(
        "second-invoice-of-a-month-without-its-index",
        "month start doesn't ask who has an invoice already, and the index is gone",
        ("I1",),
        (f"{RUNS}test_going_over_a_finished_run_again_issues_nothing_new",),
        (Patch(BILLS, ALREADY_INVOICED, "AND false"),),
        ("DROP INDEX uq_invoices_monthly",),
    ),
    Breakage(
        "fee-billed-each-month",
        "a fee isn't marked when it becomes a line, and nothing keeps it from becoming one again",
        ("I1",),
        (CARRIES, f"{BILLED}test_a_late_fee_is_on_the_next_invoice_and_says_its_month"),
        (
            Patch(
                CHUNK,
                "(_INVOICES, _INVOICE_LINES, _MARK_FEES, _PAYMENTS, _TRAIL)",
                "(_INVOICES, _INVOICE_LINES, _PAYMENTS, _TRAIL)",
            ),
        ),
        ("ALTER TABLE invoice_lines DROP CONSTRAINT uq_invoice_lines_fee_id",),
    ),
    Breakage(
        "carried-forward-twice",
        "what is below the minimum is carried into the next month twice",
        ("I1",),
        (CARRIES,),
        (
            Patch(
                CHUNK,
                "            connection.execute(text(_CARRY_FORWARD), parameters)\n",
                "            for _ in range(2):\n"
                "                again = _CARRY_FORWARD.replace(\"'carried:' || b.payment_id\", 'random()')\n"
                "                connection.execute(text(again), parameters)\n",
            ),
        ),
        ("ALTER TABLE fees DROP CONSTRAINT uq_fees_carried_from_payment_id",),
    ),
    Breakage(
        "carried-forward-nowhere",
        "what is below the minimum is forgotten",
        ("I1",),
        (CARRIES,),
        (Patch(CHUNK, "        if issued.counts.carried_forward:\n", "        if False:\n"),),
    ),
)

AMOUNTS_AND_DAYS = (
    Breakage(
        "yen-with-two-decimals",
        "a currency without a minor unit is taken for one with cents: everything costs a hundredfold",
        ("I9",),
        ("shared/test_money.py::test_a_plain_decimal_is_read_exactly",),
        (Patch("shared/domain/money.py", '("CLP", "JPY", "KRW", "VND"), 0)', '("CLP", "JPY", "KRW", "VND"), 2)'),),
    ),
    Breakage(
        "days-of-utc",
        "a day begins at midnight in Greenwich, wherever the coverage is",
        ("I11",),
        (
            "scheduler/test_retry_payments.py::test_the_day_is_the_coverages_own",
            "domain/test_schedule.py::test_a_month_is_due_from_its_end_in_the_coverages_zone",
            f"{CALENDARS}test_yen_in_tokyo_and_dollars_beside_it_keep_their_own_midnight_numbers_and_amounts",
        ),
        (
            Patch(CALENDAR, "return moment.astimezone(zone).date()", "return moment.astimezone(UTC).date()"),
            Patch(CALENDAR, "datetime.combine(day, at, tzinfo=zone)", "datetime.combine(day, at, tzinfo=UTC)"),
        ),
    ),
    Breakage(
        "morning-of-utc",
        "nine in the morning is nine in Greenwich",
        ("I11",),
        (
            f"{CHARGES}test_a_soft_decline_is_asked_again_the_next_morning_in_the_coverages_zone",
            f"{CALENDARS}test_berlin_is_asked_at_nine_in_the_morning_on_both_sides_of_the_change_of_clocks",
        ),
        (Patch(CALENDAR, "datetime.combine(day, at, tzinfo=zone)", "datetime.combine(day, at, tzinfo=UTC)"),),
    ),
)

BOOKS = (*MONTH_START, *AMOUNTS_AND_DAYS)
