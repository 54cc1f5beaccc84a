"""Breakages of what operators decide: holds, endings, marks, and bulk actions."""

from tests.breakages.breakage import Breakage, Patch

CLAIM = "shared/payments/claim.py"
OUTCOME_HANDLERS = "shared/payments/outcome_handlers.py"
ENDING = "shared/payments/cancellation.py"
HOLDS = "shared/payments/operator/decisions.py"
STANDING = "shared/accounts/standing.py"
SOURCES = "shared/scheduling/due_work.py"
BOOK = "shared/bulk/lifecycle.py"
PROGRESS = "shared/bulk/progress.py"

ENDED = "collection/test_ending.py::"
DECIDED = "collection/test_decisions.py::"
BULK = "bulk/test_bulk_actions.py::"
SWEEPS = "scheduler/test_sweep_decisions.py::"
TROUBLES = "collection/test_ending_troubles.py::"

ENDINGS = (
    Breakage(
        "ended-while-its-payment-intent-is-live",
        "a payment is void the moment that a person says so, and could still be paid",
        ("I3",),
        (
            f"{ENDED}test_a_payment_ends_only_when_its_payment_intent_was_seen_canceled",
            f"{TROUBLES}test_a_create_without_an_answer_is_repeated_under_its_key_and_what_it_made_is_canceled",
        ),
        (Patch(HOLDS, "    if live_intent(connection, payment_id) is None:\n", "    if True:\n"),),
    ),
    Breakage(
        "ended-while-an-attempt-is-open",
        "a payment is ended although nobody knows whether its last attempt took the money",
        ("I2", "I3"),
        (f"{ENDED}test_it_waits_for_an_attempt_that_may_be_taking_the_money",),
        (
            Patch(
                HOLDS,
                "    attempt = open_attempt(connection, payment.id)\n    if attempt is None:\n",
                "    attempt = open_attempt(connection, payment.id)\n    if True:\n",
            ),
        ),
    ),
    Breakage(
        "charged-while-it-is-being-ended",
        "the claim doesn't look whether somebody wants the payment ended",
        ("I2", "I14"),
        (
            f"{ENDED}test_from_the_request_on_nothing_charges_it",
            f"{ENDED}test_a_card_registered_meanwhile_does_not_charge_it_and_charges_it_once_it_is_taken_back",
        ),
        (Patch(CLAIM, "    if payment.pending_close_as is not None:\n", "    if False:\n"),),
    ),
    Breakage(
        "swept-for-a-charge-while-it-is-being-ended",
        "the sweep rings again and again for a charge that isn't started",
        ("I13",),
        (
            f"{ENDED}test_from_the_request_on_nothing_charges_it",
            f"{SWEEPS}test_what_waits_for_a_card_and_is_to_be_ended_is_not_woken_by_one",
        ),
        (Patch(SOURCES, "        payments.c.pending_close_as.is_(None),\n", ""),),
    ),
    Breakage(
        "cancellation-of-an-ending-is-succeeded",
        "the canceled PaymentIntent of a payment that is to end gets a successor",
        ("I3", "I14"),
        (
            f"{ENDED}test_a_payment_ends_only_when_its_payment_intent_was_seen_canceled",
            f"{ENDED}test_whoever_cancels_it_first_it_ends",
        ),
        (
            Patch(
                OUTCOME_HANDLERS,
                "    if locked.payment.pending_close_as is not None:  # what",
                "    if False:  # what",
            ),
        ),
    ),
    Breakage(
        "wish-outlives-the-money",
        "a payment whose money came in first still waits to be ended",
        ("I8",),
        (f"{ENDED}test_money_that_came_in_first_is_booked_and_the_wish_is_over",),
        (Patch("shared/payments/state_changes.py", "    if to in ENDED:\n", "    if False:\n"),),
    ),
    Breakage(
        "lost-create-is-given-up-at-once",
        "a PaymentIntent whose id was never learnt is given up while its create may still be on its way",
        ("I3", "I6"),
        (f"{TROUBLES}test_a_create_without_an_answer_is_repeated_under_its_key_and_what_it_made_is_canceled",),
        (
            Patch(
                ENDING,
                "    if intent is not None and is_create_key_stale(intent, machine_now):\n",
                "    if intent is not None and intent.stripe_payment_intent_id is None:\n",
            ),
        ),
    ),
    Breakage(
        "stale-create-of-an-ending-is-sent-again",
        "a create that Stripe may have forgotten is repeated, to cancel what it makes",
        ("I6",),
        (f"{TROUBLES}test_a_create_that_nobody_can_repeat_any_more_was_never_confirmed_and_is_given_up",),
        (
            Patch(
                ENDING,
                "    if intent is not None and is_create_key_stale(intent, machine_now):\n",
                "    if False:\n",
            ),
        ),
    ),
    Breakage(
        "void-leaves-its-invoice",
        "a void payment's invoice stays as if it were owed",
        ("I10",),
        (f"{ENDED}test_void_voids_the_invoice_and_a_write_off_leaves_it",),
        (Patch(ENDING, "        _void_invoice(connection, payment, because)\n", "        pass\n"),),
    ),
    Breakage(
        "sweep-without-endings",
        "the sweep doesn't look for payments that are to be ended",
        ("I13",),
        (
            f"{SWEEPS}test_what_a_person_wants_ended_is_ended_and_not_charged_whatever_its_state_and_hold",
            f"{TROUBLES}test_a_processor_that_is_away_is_asked_again_after_a_pause",
        ),
        (
            Patch(
                SOURCES,
                '    Source("payments to be ended", SETTLEMENT, PAYMENTS_TO_CLOSE, '
                "lambda row: ClosePayment(row.id)),\n",
                "",
            ),
        ),
    ),
)

PEOPLE = (
    Breakage(
        "hold-of-another-zone",
        "a hold ends at midnight in UTC, whatever the coverage's clocks say",
        ("I11",),
        (f"{DECIDED}test_a_held_payment_is_not_charged_until_its_day_begins_in_its_coverage",),
        (
            Patch(HOLDS, "instant(until, time(0), zone)", "instant(until, time(0), ZoneInfo('UTC'))"),
            Patch(HOLDS, "from uuid import UUID\n", "from uuid import UUID\nfrom zoneinfo import ZoneInfo\n"),
        ),
    ),
    Breakage(
        "unmarking-is-undone-by-the-machine",
        "an account that a person unmarked is marked again by the next run or payment",
        ("I14",),
        (
            f"{DECIDED}test_an_unmarking_is_not_undone_by_the_next_runs_until_its_day",
            f"{DECIDED}test_a_payment_of_another_invoice_does_not_undo_an_unmarking",
        ),
        (Patch(STANDING, "return until is not None and today < date.fromisoformat(until)", "return False"),),
    ),
    Breakage(
        "unmarking-outlasts-a-decline",
        "an account that a person unmarked isn't marked again however often its cards decline",
        ("I14",),
        (f"{DECIDED}test_one_more_decline_is_something_new_and_marks_again",),
        (Patch(STANDING, "if is_new_mark and not is_decline and _is_spared", "if is_new_mark and _is_spared"),),
    ),
)

MANY = (
    Breakage(
        "bulk-of-what-was-not-seen",
        "a bulk action takes what matches by now, not what the person saw",
        ("I14",),
        (
            f"{BULK}test_what_changed_since_it_was_seen_is_not_begun_and_is_shown_anew",
            f"{BULK}test_two_people_confirm_the_same_at_once_one_begins_and_the_other_sees_who_did",
        ),
        (
            Patch(BOOK, "    if found.digest != wanted.digest:\n", "    if False:\n"),
            Patch(BOOK, "ids, because.at) != wanted.digest:\n", "ids, because.at) != found.digest:\n"),
        ),
    ),
    Breakage(
        "bulk-takes-what-came-after-the-look",
        "what comes between the look and the taking is taken too",
        ("I14",),
        (f"{BULK}test_what_changes_between_the_look_and_the_taking_is_not_begun_either",),
        (
            Patch(
                BOOK,
                "if _take(connection, bulk_id, wanted.action, ids, because.at) != wanted.digest:",
                "if not _take(connection, bulk_id, wanted.action, ids, because.at):",
            ),
        ),
    ),
    Breakage(
        "two-begin-at-once",
        "two people who confirm the same at once don't wait for each other",
        ("I4",),
        (f"{BULK}test_two_people_confirm_the_same_at_once_one_begins_and_the_other_sees_who_did",),
        (
            Patch(
                BOOK,
                "        return NO_REASON\n"
                "    connection.execute(select(func.pg_advisory_xact_lock(BEGIN_LOCK)))\n"
                "    found = preview(",
                "        return NO_REASON\n    found = preview(",
            ),
        ),
    ),
    Breakage(
        "stopped-bulk-action-goes-on",
        "a worker goes on with a bulk action that somebody stopped, and finishes it",
        ("I14",),
        (f"{BULK}test_a_person_stops_it_between_chunks_and_another_resumes_it",),
        (
            Patch(
                PROGRESS,
                'bulk_actions.c.id == bulk_id, bulk_actions.c.state == "running"',
                "bulk_actions.c.id == bulk_id",
            ),
        ),
    ),
    Breakage(
        "resumed-with-what-another-has",
        "a resumed bulk action takes payments back that another one has by now",
        ("I14",),
        (f"{BULK}test_what_another_one_has_by_then_is_left_to_it",),
        (
            Patch(
                BOOK, "        .where(*stopped, is_taken)\n", "        .where(*stopped, is_taken, text('false'))\n"
            ),
        ),
    ),
    Breakage(
        "bulk-charge-releases-holds",
        "a bulk charge releases what somebody holds",
        ("I14",),
        (
            f"{BULK}test_what_happened_since_the_begin_is_refused_with_words_and_the_rest_is_done",
            f"{DECIDED}test_a_person_who_charges_by_hand_releases_a_hold_and_a_bulk_action_does_not",
        ),
        (
            Patch(
                "shared/payments/operator/charge.py",
                "    if refused is None and not releases_hold:\n",
                "    if False:\n",
            ),
        ),
    ),
    Breakage(
        "sweep-without-bulk-actions",
        "the sweep doesn't look for bulk actions that aren't through",
        ("I13",),
        (
            f"{SWEEPS}test_a_bulk_action_is_rung_for_until_it_is_through_or_stopped",
            f"{BULK}test_killed_anywhere_what_is_done_is_done_once_and_the_rest_goes_on",
        ),
        (
            Patch(
                SOURCES,
                '    Source("unfinished bulk actions", RUNS, UNFINISHED_BULK_ACTIONS, '
                "lambda row: ApplyBulkAction(row.id)),\n",
                "",
            ),
        ),
    ),
)

DECISIONS = (*ENDINGS, *PEOPLE, *MANY)
