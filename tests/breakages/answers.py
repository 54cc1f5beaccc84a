"""Breakages of what follows a request: how answers are read, settlement, the record, and what it leaves behind."""

from tests.breakages.breakage import Breakage, Patch

OUTCOMES = "shared/gateway/outcomes.py"
RECORD = "shared/payments/record_outcome.py"
OUTCOME_HANDLERS = "shared/payments/outcome_handlers.py"
SETTLE = "workers/use_cases/settle_attempt.py"
SESSION = "shared/db/session.py"

CHARGES = "collection/test_charge_payment.py::"
LOST = "collection/test_missing_answers.py::"
PHASES = "collection/test_between_the_phases.py::"
TABLE = "gateway/test_outcomes.py::"
MOMENTS = "diaries/test_at_the_same_moment.py::"
NEW_CARDS = "diaries/test_new_cards.py::"

READING = (
    Breakage(
        "unknown-taken-for-declined",
        "a timeout counts as a decline",
        ("I7",),
        (
            f"{TABLE}test_a_missing_answer_is_never_taken_for_one",
            f"{PHASES}test_a_request_whose_answer_is_lost_is_sent_once",
            "cards/test_apply_stripe_event.py::test_a_webhook_settles_an_attempt_whose_answer_was_lost",
        ),
        (Patch(OUTCOMES, "    T.NO_ANSWER: Outcome.UNKNOWN,\n", "    T.NO_ANSWER: Outcome.DECLINED,\n"),),
    ),
    Breakage(
        "server-error-taken-for-not-sent",
        "a 5xx counts as certain that no issuer was asked",
        ("I7",),
        (f"{TABLE}test_a_missing_answer_is_never_taken_for_one",),
        (Patch(OUTCOMES, "    T.SERVER_ERROR: Outcome.UNKNOWN,\n", "    T.SERVER_ERROR: Outcome.NOT_SENT,\n"),),
    ),
    Breakage(
        "key-in-use-taken-for-not-sent",
        "a 409, the same key under way elsewhere, counts as not sent",
        ("I7",),
        (f"{TABLE}test_a_missing_answer_is_never_taken_for_one",),
        (Patch(OUTCOMES, "    T.KEY_IN_USE: Outcome.UNKNOWN,\n", "    T.KEY_IN_USE: Outcome.NOT_SENT,\n"),),
    ),
    Breakage(
        "rate-limit-taken-for-declined",
        "a 429 counts as a decline",
        ("I7",),
        (f"{TABLE}test_an_outage_is_never_a_decline",),
        (Patch(OUTCOMES, "    T.RATE_LIMITED: Outcome.NOT_SENT,\n", "    T.RATE_LIMITED: Outcome.DECLINED,\n"),),
    ),
    Breakage(
        "cancellation-that-was-not-shown",
        "an unexpected state counts as a cancellation though no PaymentIntent was shown: it may be paid",
        ("I3", "I7"),
        (f"{TABLE}test_only_a_cancellation_that_was_shown_is_one",),
        (
            Patch(
                OUTCOMES,
                "(T.UNEXPECTED_STATE, S.NOT_SHOWN): Outcome.UNKNOWN",
                "(T.UNEXPECTED_STATE, S.NOT_SHOWN): Outcome.CANCELED",
            ),
        ),
    ),
    Breakage(
        "not-sent-counted-as-decline",
        "an outage is dunned like a decline",
        ("I7",),
        (
            f"{LOST}test_a_wrong_key_is_an_alarm_and_never_a_decline",
            f"{LOST}test_a_refused_connection_is_certain_not_to_have_asked",
        ),
        (
            Patch(
                OUTCOME_HANDLERS,
                "    Outcome.NOT_SENT: after_not_sent,\n",
                "    Outcome.NOT_SENT: after_decline,\n",
            ),
        ),
    ),
)

SETTLING = (
    Breakage(
        "settlement-inside-the-lease",
        "settlement takes an attempt whose worker may still be asking",
        ("I5",),
        (f"{PHASES}test_settlement_leaves_an_attempt_alone_until_its_lease_is_over",),
        (
            Patch(
                SETTLE,
                "attempt.state == AttemptState.STARTED and attempt.lease_expires_at <= machine_now",
                "attempt.state == AttemptState.STARTED",
            ),
        ),
    ),
    Breakage(
        "news-of-no-money-inside-the-lease",
        "a decline that is seen from outside closes an attempt under way, though it may speak of the one before",
        ("I5",),
        (
            f"{PHASES}test_news_of_a_decline_leaves_a_living_attempt_alone",
            f"{LOST}test_a_lost_decline_counts_once_and_only_after_the_lease",
        ),
        (Patch(RECORD, "    if is_inside_lease and not is_own and not has_money:\n", "    if False:\n"),),
    ),
    Breakage(
        "decline-of-the-attempt-before",
        "settlement doesn't ask whether the charge it sees is of an earlier attempt",
        ("I5",),
        (f"{LOST}test_the_decline_of_the_attempt_before_is_not_taken_for_this_ones",),
        (Patch(RECORD, "return not connection.scalar(select(recorded))", "return True"),),
    ),
    Breakage(
        "look-up-inside-a-transaction",
        "settlement holds its locks while it waits for the processor",
        ("I4",),
        (f"{PHASES}test_a_look_at_the_processor_holds_no_transaction_open",),
        (
            Patch(
                SETTLE,
                "    answer = gateway.retrieve_payment_intent(step.stripe_payment_intent_id)\n",
                "    with runtime.engine.begin() as held:\n"
                "        held.execute(select(payment_attempts.c.id).with_for_update())\n"
                "        answer = gateway.retrieve_payment_intent(step.stripe_payment_intent_id)\n",
            ),
        ),
    ),
    Breakage(
        "deadlock-not-repeated",
        "the loser of a deadlock gives up",
        ("I4",),
        (f"{PHASES}test_the_loser_of_a_deadlock_repeats_its_transaction",),
        (
            Patch(
                SESSION,
                "_REPEATABLE = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)",
                "_REPEATABLE = ()",
            ),
        ),
    ),
    Breakage(
        "broken-connection-not-repeated",
        "a transaction whose connection broke isn't run again",
        ("I4",),
        (f"{PHASES}test_a_transaction_whose_connection_breaks_runs_again_once",),
        (Patch(SESSION, "_is_break(error) and breaks == 1", "False"),),
    ),
)

RECORDING = (
    Breakage(
        "money-ignored-on-a-closed-attempt",
        "evidence of money doesn't change an attempt that was closed on worse evidence",
        ("I5",),
        (f"{LOST}test_late_money_always_wins",),
        (
            Patch(
                RECORD,
                "if is_open or (is_proven and attempt is not None and attempt.state != AttemptState.SUCCEEDED):",
                "if is_open:",
            ),
        ),
    ),
    Breakage(
        "one-charge-is-the-success-of-two-attempts",
        "an attempt that finds its PaymentIntent paid by another one counts as paid too",
        ("I5",),
        (f"{PHASES}test_of_two_workers_who_both_reach_the_confirm_one_is_paid_by_it",),
        (Patch(RECORD, "closing = _without_money_of_another(connection, locked, answer)", "closing = answer"),),
    ),
    Breakage(
        "money-ignored-on-a-closed-payment",
        "money that comes after its attempt was closed isn't booked",
        ("I5", "I8"),
        (
            f"{LOST}test_late_money_always_wins",
            f"{PHASES}test_a_second_charge_of_a_paid_payment_is_booked_and_found",
        ),
        (Patch(RECORD, "    if is_open or has_money or _is_fresh_canc", "    if is_open or _is_fresh_canc"),),
    ),
    Breakage(
        "record-without-compare-and-set",
        "a late answer that is no money changes an attempt that is closed already",
        ("I5",),
        (f"{LOST}test_a_late_answer_changes_nothing_unless_it_is_money",),
        (
            Patch(
                RECORD,
                "is_open = attempt is not None and attempt.state in OPEN_ATTEMPT",
                "is_open = attempt is not None",
            ),
        ),
    ),
    Breakage(
        "old-cancellation-is-news",
        "a late event about a canceled PaymentIntent makes its successor's payment due",
        ("I3", "I5"),
        (f"{LOST}test_a_late_event_of_a_closed_payment_intent_changes_nothing",),
        (Patch(RECORD, " and locked.intent.closed_reason is None and ", " and "),),
    ),
    Breakage(
        "person-overruled",
        "a PaymentIntent that a person canceled at the processor is succeeded by itself",
        ("I3",),
        (f"{CHARGES}test_a_person_who_cancels_at_the_processor_is_not_overruled",),
        (Patch(OUTCOME_HANDLERS, "    if is_ours or by in CANCELED_BY_STRIPE:\n", "    if True:\n"),),
    ),
    Breakage(
        "card-revision-not-re-read-at-record",
        "a card registered while the old one is being asked isn't noticed when that declines",
        ("I15",),
        (
            f"{CHARGES}test_a_card_registered_while_the_old_one_declines_is_charged",
            f"{MOMENTS}test_a_card_registered_while_the_old_one_is_asked_pays_when_that_declines",
        ),
        (
            Patch(
                OUTCOME_HANDLERS,
                "        and settings.card_revision > locked.attempt.card_revision\n",
                "        and False\n",
            ),
        ),
    ),
    Breakage(
        "receipt-not-written",
        "money that came in isn't booked beside the payment's state",
        ("I8",),
        (
            f"{LOST}test_killed_after_the_money_was_taken",
            f"{PHASES}test_a_second_charge_of_a_paid_payment_is_booked_and_found",
            f"{NEW_CARDS}test_a_new_card_pays_three_unpaid_invoices_of_one_coverage_and_leaves_the_others",
        ),
        (
            Patch(
                OUTCOME_HANDLERS, "    record_receipt(connection, payment, locked.attempt_id, seen, because)\n", ""
            ),
        ),
    ),
    Breakage(
        "second-charge-not-found",
        "a payment that was paid twice is nobody's finding",
        ("I8",),
        (f"{PHASES}test_a_second_charge_of_a_paid_payment_is_booked_and_found",),
        (
            Patch(
                OUTCOME_HANDLERS,
                "    if is_paid and has_other_receipt(connection, payment, charge_id):\n",
                "    if False:\n",
            ),
        ),
    ),
    Breakage(
        "other-amount-not-found",
        "a charge of another amount than was asked for is nobody's finding",
        ("I8", "I9"),
        (f"{PHASES}test_a_second_charge_of_a_paid_payment_is_booked_and_found",),
        (
            Patch(
                OUTCOME_HANDLERS,
                "    if (seen.amount_received_minor, seen.currency) != (payment.amount_minor, payment.currency):\n",
                "    if False:\n",
            ),
        ),
    ),
    Breakage(
        "paid-is-no-end",
        "a paid payment may become due again",
        ("I8",),
        ("domain/test_states.py::test_paid_is_reachable_from_everywhere_and_left_by_nothing",),
        (Patch("shared/domain/states.py", "    P.PAID: frozenset(),", "    P.PAID: frozenset({P.DUE}),"),),
    ),
    Breakage(
        "trail-not-written",
        "changes leave no trace",
        ("I10",),
        (
            f"{CHARGES}test_a_good_card_pays_and_everything_is_written_down",
            "cli/test_payment_commands.py::test_a_decline_is_explained_with_every_code_and_what_comes_next",
        ),
        (Patch("shared/db/billing_events.py", "    connection.execute(_INSERT, vars(event))\n", "    return\n"),),
    ),
)

ANSWERS = (*READING, *SETTLING, *RECORDING)
