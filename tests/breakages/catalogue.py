"""All breakages. What is left to mutation testing, and why, is in docs/proof.md."""

from datetime import timedelta

from tests.breakages import changes
from tests.breakages.breakage import Breakage
from tests.breakages.seams import Sql, Wrap, nothing, replaced, unlocked, with_entry

PHASES = "payments/test_charge_phases.py::"
LOST = "payments/test_missing_answers.py::"
CHARGES = "payments/test_charge_payment.py::"
CLOCKS = "payments/test_two_clocks.py::"
WRITTEN_ONCE = "payments/test_immutable_payments.py::"
ONE_ROW = "payments/test_unique_keys.py::test_database_rejects_a_duplicate_row"
MOMENTS = "diaries/test_concurrent_events.py::"
TRANSFERS = "payments/test_transfers.py::"
SWEEPS = "scheduler/test_sweep.py::"
CLOSES = "scheduler/test_sweep_closes_and_bulk_actions.py::"
LEADING = "scheduler/test_scheduler.py::"

#: Each source of due work, and a test that misses it. A new source needs a test here.
MISSES_SOURCE = {
    "unfinished runs": f"{SWEEPS}test_only_unfinished_runs_are_enqueued",
    "unfinished bulk actions": f"{CLOSES}test_bulk_action_is_enqueued_until_finished_or_stopped",
    "stripe events": f"{SWEEPS}test_stripe_events_are_enqueued_until_applied",
    "payments with a new card": (f"{SWEEPS}test_payment_with_a_replaced_card_is_found_without_a_webhook"),
    "payments by card again": f"{TRANSFERS}test_payment_is_charged_once_the_customer_pays_by_card_again",
    "expired leases": (f"{SWEEPS}test_open_attempt_blocks_its_payment_until_its_lease_expires_and_is_then_settled"),
    "unknown attempts": f"{SWEEPS}test_unknown_attempt_is_looked_up_at_its_time",
    "payments to close": (f"{CLOSES}test_payment_with_a_pending_close_is_closed_and_not_charged_in_any_state"),
    "due payments, interactive": f"{SWEEPS}test_due_payment_is_enqueued_on_its_queue",
    "due payments, batch": f"{SWEEPS}test_due_payment_is_enqueued_on_its_queue",
    "unfinished reconciliations": f"{SWEEPS}test_every_queue_has_a_source",
}

ORDER = (
    Breakage(
        "confirm-before-the-id-is-committed",
        "the confirm is sent before the PaymentIntent's id is committed",
        ("I3", "I4"),
        (
            f"{PHASES}test_attempt_is_committed_and_no_transaction_is_open_when_a_request_leaves",
            f"{LOST}test_kill_after_the_capture_is_recovered",
        ),
        (
            Wrap("shared.payments.claim", "claim_charge", changes.remembering),
            Wrap(
                "workers.use_cases.charge_payment", "charge_payment", changes.with_runtime(changes.confirming_first)
            ),
        ),
    ),
    Breakage(
        "create-and-confirm-in-one-request",
        "one request creates and confirms: if its answer is lost, the id of what took the money is unknown",
        ("I3",),
        (
            f"{PHASES}test_create_moves_no_money",
            f"{LOST}test_create_key_older_than_23_hours_is_never_sent_again",
        ),
        (Wrap("shared.payments.claim", "claim_charge", changes.creating_confirmed),),
    ),
    Breakage(
        "create-before-the-claim-is-committed",
        "the create is sent inside the claim's transaction",
        ("I4",),
        (f"{PHASES}test_attempt_is_committed_and_no_transaction_is_open_when_a_request_leaves",),
        (Wrap("shared.payments.claim", "claim_charge", changes.creating_inside),),
    ),
    Breakage(
        "requests-inside-a-transaction",
        "a transaction is open while settlement and webhooks look at Stripe",
        ("I4",),
        (
            f"{PHASES}test_reading_from_the_processor_holds_no_transaction_open",
            (
                "accounts/test_no_transaction_during_reads.py::"
                "test_no_transaction_is_open_while_an_event_object_is_fetched"
            ),
        ),
        (
            Wrap("workers.use_cases.settle_attempt", "settle_attempt", changes.with_runtime(changes.holding)),
            Wrap(
                "workers.use_cases.apply_stripe_event", "apply_stripe_event", changes.with_runtime(changes.holding)
            ),
        ),
    ),
    Breakage(
        "successor-before-the-predecessor-is-canceled",
        "a PaymentIntent older than 23 hours gets a successor although it may still be paid",
        ("I3",),
        (f"{CLOCKS}test_old_payment_intent_has_no_successor_until_it_is_canceled",),
        (Wrap("shared.payments.claim", "is_create_key_stale", changes.stale_by_age_alone),),
    ),
    Breakage(
        "random-idempotency-keys",
        "a repeated request has another idempotency key",
        ("I6",),
        (
            f"{LOST}test_kill_after_the_create_reuses_the_payment_intent",
            f"{CHARGES}test_create_and_confirm_have_separate_idempotency_keys",
        ),
        (
            Wrap("shared.payments.claim", "Claimed.create_key", changes.random_property),
            Wrap("shared.payments.claim", "Claimed.attempt_key", changes.random_property),
        ),
    ),
    Breakage(
        "no-23-hour-rule",
        "a create is repeated under a key of any age, though Stripe may have forgotten it",
        ("I6",),
        (f"{LOST}test_create_key_older_than_23_hours_is_never_sent_again",),
        (Wrap("shared.payments.claim", "KEY_GOOD_FOR", lambda _: timedelta(days=365)),),
    ),
    Breakage(
        "no-sigterm-debounce",
        "a second SIGTERM within moments kills a worker in the middle of a charge",
        ("I5",),
        (("processes/test_killed_processes.py::test_a_worker_with_two_stop_signals_finishes_its_charges"),),
        (Wrap("shared.messaging.broker", "SIGTERM_DEBOUNCE_S", lambda _: 0.0),),
    ),
)

CLOCKS_SWAPPED = (
    Breakage(
        "lease-on-the-business-clock",
        "a lease counts business time, which may be virtual, stand still or leap",
        ("I5", "I11"),
        (f"{CLOCKS}test_business_time_alone_expires_no_lease",),
        (Wrap("shared.payments.claim", "claim_charge", changes.with_runtime(changes.machine_time_from_business)),),
    ),
    Breakage(
        "due-on-the-machine-clock",
        "the claim compares a calendar date with machine time",
        ("I11",),
        (f"{CLOCKS}test_machine_time_alone_makes_nothing_due",),
        (Wrap("shared.payments.claim", "claim_charge", changes.with_runtime(changes.business_time_from_machine)),),
    ),
    Breakage(
        "settlement-inside-the-lease",
        "settlement takes an attempt while its worker may still send the request",
        ("I5",),
        (f"{PHASES}test_settlement_skips_an_attempt_until_its_lease_expires",),
        (
            Wrap(
                "workers.use_cases.settle_attempt", "settle_attempt", changes.with_runtime(changes.one_lease_ahead)
            ),
        ),
    ),
)

LOCKS = (
    Breakage(
        "payment-not-locked",
        "two claims of one payment don't wait for each other",
        ("I4",),
        (f"{PHASES}test_second_claim_waits_for_the_first_and_finds_its_attempt",),
        (unlocked("payments"),),
    ),
    Breakage(
        "advisory-locks-shared",
        "advisory locks keep nobody out: two workers count one card's budget, two operators start one bulk action",
        ("I2", "I4"),
        (
            f"{PHASES}test_claims_on_one_card_are_serialized",
            (
                "bulk/test_bulk_actions.py::"
                "test_second_of_two_concurrent_confirmations_is_refused_with_the_name_of_the_first"
            ),
        ),
        (replaced(r"\bpg_advisory_xact_lock\(", "pg_advisory_xact_lock_shared("),),
    ),
    Breakage(
        "run-not-locked",
        "two workers do the same chunk of a run",
        ("I1", "I4"),
        ("scheduler/test_run_lock.py::test_locked_run_is_skipped_by_a_second_worker",),
        (unlocked("runs"),),
    ),
    Breakage(
        "month-start-locks-nothing",
        "month start reads fees and primary cards without locks",
        ("I4", "I15"),
        (
            "invoicing/test_runs.py::test_month_start_waits_for_a_change_of_payment_settings",
            "invoicing/test_runs.py::test_fee_corrected_during_month_start_is_billed_as_corrected",
            f"{MOMENTS}test_card_registered_inside_an_open_chunk_of_month_start_pays_once",
        ),
        (replaced(r"\bFOR (SHARE|UPDATE) OF \w+", ""),),
    ),
    Breakage(
        "deadlock-not-repeated",
        "the loser of a deadlock gives up",
        ("I4",),
        (f"{PHASES}test_deadlock_loser_repeats_its_transaction",),
        (Wrap("shared.db.session", "MAX_REPETITIONS", lambda _: 0),),
    ),
    Breakage(
        "scheduler-without-lead",
        "a scheduler ticks and sweeps without holding the leader lock",
        ("I1",),
        (f"{LEADING}test_only_one_scheduler_leads_and_leadership_is_visible",),
        (Wrap("scheduler.leadership", "Leadership.is_ours", lambda _: lambda _self: True),),
    ),
)

ENTRIES = (
    Breakage(
        "no-answer-is-a-decline",
        "a timeout counts as a decline",
        ("I7",),
        (
            "gateway/test_outcomes.py::test_missing_answer_is_never_an_outcome",
            f"{PHASES}test_request_with_a_lost_answer_is_sent_once",
            "accounts/test_apply_stripe_event.py::test_webhook_settles_an_attempt_with_a_lost_answer",
        ),
        (Wrap("shared.gateway.outcomes", "OUTCOMES", changes.no_answer_declined),),
    ),
    Breakage(
        "outage-is-a-decline",
        "a request that was not sent is handled like a decline",
        ("I7",),
        (
            f"{LOST}test_wrong_api_key_raises_an_alert_and_is_not_a_decline",
            f"{LOST}test_refused_connection_is_recorded_as_not_sent",
        ),
        (Wrap("shared.payments.outcome_handlers", "OUTCOME_HANDLERS", changes.not_sent_declined),),
    ),
    Breakage(
        "card-revision-not-read-again",
        "a card registered during the charge of the old one is not noticed when that one declines",
        ("I15",),
        (
            f"{CHARGES}test_card_registered_during_a_decline_is_charged",
            f"{MOMENTS}test_card_registered_while_the_old_one_is_charged_pays_after_a_decline",
        ),
        (Wrap("shared.payments.outcome_handlers", "OUTCOME_HANDLERS", changes.blind_to_newer_cards),),
    ),
    Breakage(
        "open-attempt-stops-nobody",
        "operators and new cards make a payment due although an attempt is open",
        ("I2", "I14"),
        (
            f"{PHASES}test_operator_charge_is_refused_while_an_attempt_is_open",
            f"{LOST}test_unknown_attempt_blocks_every_other_path",
            "accounts/test_card_changed.py::test_payment_with_an_open_attempt_is_not_woken",
        ),
        (Wrap("shared.payments.state_changes", "open_attempt", nothing, is_only_here=True),),
    ),
    Breakage(
        "receipt-not-written",
        "captured money leaves no receipt",
        ("I8",),
        (
            f"{PHASES}test_second_charge_of_a_paid_payment_is_booked_and_reported",
            f"{LOST}test_kill_after_the_capture_is_recovered",
        ),
        (Wrap("shared.payments.receipts", "record_receipt", nothing),),
    ),
    Breakage(
        "billing-events-not-written",
        "changes leave no billing event",
        ("I10",),
        (f"{CHARGES}test_good_card_pays_and_all_rows_are_written",),
        (Wrap("shared.db.billing_events", "record_event", nothing),),
    ),
    Breakage(
        "yen-with-two-decimals",
        "a currency without a minor unit is taken for one with cents: everything costs a hundredfold",
        ("I9",),
        ("shared/test_money.py::test_decimal_is_parsed_exactly",),
        (Wrap("shared.domain.money", "EXPONENTS", with_entry("JPY", 2)),),
    ),
    Breakage(
        "signature-not-checked",
        "anybody may send us webhooks in Stripe's name",
        ("I12",),
        ("web/test_webhook_signatures.py::test_invalid_or_old_signature_is_refused_and_not_stored",),
        (Wrap("stripe", "WebhookSignature.verify_header", nothing),),
    ),
)

SWEEP = (
    Breakage(
        "sweep-off",
        "the scheduler ticks, and its sweep enqueues nothing",
        ("I13",),
        (f"{LEADING}test_run_past_the_catch_up_window_awaits_a_named_user_with_a_reason",),
        (Wrap("scheduler.sweep", "Sweep.__call__", lambda _: lambda _self, _moment: {}),),
    ),
    Breakage(
        "outage-waited-out",
        "after an outage every payment waits for the end of its pause, up to an hour",
        ("I13",),
        (f"{LEADING}test_scheduler_ends_outage_backoffs_once_other_requests_succeed",),
        (Wrap("shared.payments.outages", "end_backoffs", nothing),),
    ),
    *(
        Breakage(
            f"sweep-without-{source.replace(',', '').replace(' ', '-')}",
            f"the sweep doesn't look for {source}",
            ("I13", "I15") if source == "payments with a new card" else ("I13",),
            (test,),
            (Wrap("shared.scheduling.due_work", "DUE_WORK", changes.without_source(source)),),
        )
        for source, test in MISSES_SOURCE.items()
    ),
)

DATABASE = (
    Breakage(
        "unique-keys-dropped",
        "the database takes a second row of whatever is one",
        ("I1", "I2", "I3", "I6", "I8", "I12", "I13", "I15"),
        (ONE_ROW,),
        (Sql(changes.DROP_UNIQUE_KEYS),),
        is_every_case=True,
    ),
    Breakage(
        "history-triggers-dropped",
        "billing events, receipts and issued invoices may be rewritten",
        ("I10",),
        (
            f"{WRITTEN_ONCE}test_rows_of_a_charge_cannot_be_changed",
            f"{WRITTEN_ONCE}test_issued_invoice_cannot_be_changed",
            f"{WRITTEN_ONCE}test_invoice_can_be_voided_only_once",
        ),
        (Sql(changes.DROP_HISTORY_TRIGGERS),),
        is_every_case=True,
    ),
    Breakage(
        "stripe-event-stored-twice",
        "an event that Stripe sends again is stored and applied again",
        ("I12",),
        (
            "web/test_webhook_storage.py::test_event_sent_three_times_is_stored_and_enqueued_once",
            "web/test_webhook_storage.py::test_hundreds_of_concurrent_events_are_stored_once_each",
        ),
        (Sql("ALTER TABLE stripe_events DROP CONSTRAINT pk_stripe_events"),),
    ),
    Breakage(
        "run-made-twice",
        "two schedulers both insert the same run",
        ("I1",),
        (f"{LEADING}test_two_leaders_still_create_one_run",),
        (
            Sql("ALTER TABLE runs DROP CONSTRAINT uq_runs_job_period_coverage"),
            replaced(r"(INSERT INTO runs\b.* ON CONFLICT) \([^)]*\)", r"\1"),
        ),
    ),
)

BREAKAGES: tuple[Breakage, ...] = (*ORDER, *CLOCKS_SWAPPED, *LOCKS, *ENTRIES, *SWEEP, *DATABASE)


def find(name: str) -> Breakage:
    """Return a breakage by its name. LookupError if there is none."""
    for breakage in BREAKAGES:
        if breakage.name == name:
            return breakage
    raise LookupError(f"there is no breakage {name!r}; `python -m tests.breakages --list` shows all")
