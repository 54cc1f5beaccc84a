"""Breakages of a charge: the claim, the two requests, what is committed between them, and what people ask for."""

from tests.breakages.breakage import Breakage, Patch

CLAIM = "shared/payments/claim.py"
CHARGE = "workers/use_cases/charge_payment.py"
BUDGETS = "shared/payments/network_budgets.py"
PAYMENTS = "shared/payments/state_changes.py"
REQUESTS = "shared/payments/operator/charge.py"

CHARGES = "collection/test_charge_payment.py::"
LOST = "collection/test_missing_answers.py::"
PHASES = "collection/test_between_the_phases.py::"
SETTLED = "collection/test_settlement.py::"
CLOCKS = "collection/test_two_clocks.py::"
PEOPLE = "cli/test_payment_commands.py::"

TWO_REQUESTS = (
    Breakage(
        "confirm-before-the-id-is-committed",
        "the confirm leaves first, and then the PaymentIntent's id is committed",
        ("I3", "I4"),
        (
            f"{PHASES}test_when_a_request_leaves_its_attempt_is_committed_and_no_transaction_is_open",
            f"{LOST}test_a_worker_that_wakes_up_after_its_lease_sends_nothing",
            f"{LOST}test_killed_after_the_money_was_taken",
        ),
        (
            Patch(
                CHARGE,
                "        if not _allow_confirm(runtime, claimed, created.payment_intent):\n",
                "        answer = _send(gateway, claimed, stripe_id)\n"
                "        if _allow_confirm(runtime, claimed, created.payment_intent):\n"
                "            return answer\n"
                "        else:\n",
            ),
        ),
    ),
    Breakage(
        "create-and-confirm-in-one-request",
        "one request creates and confirms; where its answer is lost, nobody knows the id of what took the money",
        ("I3",),
        (
            f"{PHASES}test_a_create_moves_no_money_whatever_becomes_of_its_answer",
            f"{LOST}test_a_create_key_older_than_23_hours_is_never_sent_again",  # here it takes the money twice
        ),
        (
            Patch(
                CHARGE,
                "gateway.create_payment_intent(claimed.create_parameters, claimed.create_key)",
                "gateway.create_payment_intent(\n"
                "            {**claimed.create_parameters, 'payment_method': claimed.stripe_payment_method_id,\n"
                "             'off_session': True, 'confirm': True},\n"
                "            claimed.create_key,\n"
                "        )",
            ),
        ),
    ),
    Breakage(
        "create-before-the-claim-is-committed",
        "the first request leaves inside the claim's transaction",
        ("I4",),
        (f"{PHASES}test_when_a_request_leaves_its_attempt_is_committed_and_no_transaction_is_open",),
        (
            Patch(
                CHARGE,
                "lambda connection: claim_charge(connection, runtime, payment_id)",
                "lambda connection: _claim_and_create(connection, runtime, payment_id)",
            ),
            Patch(
                CHARGE,
                "def _ask(",
                "def _claim_and_create(\n"
                "    connection: Connection, runtime: Runtime, payment_id: UUID\n"
                ") -> Claimed | NotClaimed:\n"
                "    claimed = claim_charge(connection, runtime, payment_id)\n"
                "    if isinstance(claimed, Claimed) and claimed.stripe_payment_intent_id is None:\n"
                "        runtime.gateways[claimed.coverage].create_payment_intent(\n"
                "            claimed.create_parameters, claimed.create_key)\n"
                "    return claimed\n\n\ndef _ask(",
            ),
        ),
    ),
    Breakage(
        "key-of-the-confirm-is-random",
        "each confirm has an idempotency key of its own",
        ("I6",),
        (f"{CHARGES}test_create_and_confirm_are_two_requests_with_their_own_keys",),
        (Patch(CLAIM, '"duecourse-{self.kind}-{self.payment_id}-{self.number}"', '"duecourse-{uuid4()}"'),),
    ),
    Breakage(
        "key-of-the-create-is-random",
        "a create that is repeated makes another PaymentIntent",
        ("I6",),
        (
            f"{LOST}test_killed_after_the_create_finds_the_same_payment_intent_again",
            f"{LOST}test_a_create_without_an_answer_moved_no_money_and_is_repeated_under_its_key",
        ),
        (Patch(CLAIM, '"duecourse-create-{self.payment_id}-{self.ordinal}"', '"duecourse-create-{uuid4()}"'),),
    ),
    Breakage(
        "create-is-repeated-with-other-parameters",
        "a repeated create doesn't repeat its parameters exactly",
        ("I6",),
        (
            f"{LOST}test_killed_after_the_create_finds_the_same_payment_intent_again",
            f"{LOST}test_a_create_without_an_answer_moved_no_money_and_is_repeated_under_its_key",
        ),
        (
            Patch(
                CLAIM,
                "create_parameters=intent.create_parameters,",
                'create_parameters={**intent.create_parameters, "description": f"attempt {number}"},',
            ),
        ),
    ),
    Breakage(
        "no-23-hour-rule",
        "a create key of any age is sent again, though Stripe may have forgotten it",
        ("I6",),
        (f"{LOST}test_a_create_key_older_than_23_hours_is_never_sent_again",),
        (Patch(CLAIM, "KEY_GOOD_FOR = timedelta(hours=23)", "KEY_GOOD_FOR = timedelta(days=365)"),),
    ),
    Breakage(
        "successor-of-what-was-not-seen-canceled",
        "a PaymentIntent older than 23 hours is given up and succeeded, although it may still be paid",
        ("I3",),
        (f"{CLOCKS}test_a_payment_intent_of_many_days_has_no_successor_until_it_was_seen_canceled",),
        (Patch(CLAIM, "is_unanswered = intent.stripe_payment_intent_id is None", "is_unanswered = True"),),
    ),
    Breakage(
        "successor-while-the-cancel-is-unknown",
        "a cancel without an answer counts as a cancellation",
        ("I3", "I7"),
        (f"{SETTLED}test_a_cancel_without_an_answer_is_settled_and_then_succeeded",),
        (
            Patch(
                "shared/payments/record_outcome.py",
                "    if answer.outcome in (Outcome.CANCELED, Outcome.SUCCEEDED, Outcome.UNKNOWN):\n",
                "    if answer.outcome is Outcome.UNKNOWN:\n"
                "        return replace(answer, outcome=Outcome.CANCELED)\n"
                "    if answer.outcome in (Outcome.CANCELED, Outcome.SUCCEEDED):\n",
            ),
        ),
    ),
    Breakage(
        "no-look-at-the-lease-before-the-confirm",
        "a worker that slept sends its confirm though its lease is over, or nearly",
        ("I5",),
        (f"{LOST}test_nothing_leaves_when_the_lease_is_nearly_over",),
        (
            Patch(
                CHARGE,
                "if runtime.machine_now() + min(LEASE_MARGIN, runtime.lease / 2) > claimed.lease_expires_at:",
                "if False:",
            ),
        ),
    ),
    Breakage(
        "overtaken-worker-goes-on",
        "a worker commits the id and goes on though settlement has taken its attempt",
        ("I5",),
        (f"{LOST}test_a_worker_that_wakes_up_after_its_lease_sends_nothing",),
        (
            Patch(
                CHARGE,
                "payment_attempts.c.id == claimed.attempt_id, payment_attempts.c.state == AttemptState.STARTED)",
                "payment_attempts.c.id == claimed.attempt_id)",
            ),
        ),
    ),
    Breakage(
        "sdk-repeats-requests",
        "Stripe's SDK sends a request again by itself when the answer is lost",
        ("I6",),
        (f"{PHASES}test_a_request_whose_answer_is_lost_is_sent_once",),
        (Patch("shared/gateway/stripe_gateway.py", "max_network_retries=0", "max_network_retries=2"),),
    ),
)

CLAIMING = (
    Breakage(
        "open-attempt-not-looked-for",
        "the claim doesn't ask for an open attempt; only the index stands between two confirms",
        ("I2",),
        (
            f"{LOST}test_an_unknown_attempt_blocks_every_other_path",
            f"{PHASES}test_a_second_claim_waits_for_the_first_and_finds_its_attempt",
        ),
        (Patch(CLAIM, "    if found.has_open_attempt:\n", "    if False:\n"),),
    ),
    Breakage(
        "open-attempt-neither-looked-for-nor-indexed",
        "the claim doesn't ask for an open attempt, and the index is gone",
        ("I2",),
        (
            f"{LOST}test_an_unknown_attempt_blocks_every_other_path",
            f"{LOST}test_killed_right_after_the_claim",
        ),
        (Patch(CLAIM, "    if found.has_open_attempt:\n", "    if False:\n"),),
        ("DROP INDEX uq_payment_attempts_open",),
    ),
    Breakage(
        "payment-not-locked",
        "claims of one payment don't wait for each other",
        ("I4",),
        (f"{PHASES}test_a_second_claim_waits_for_the_first_and_finds_its_attempt",),
        (
            Patch(
                PAYMENTS,
                '_LOCK = select(payments).where(payments.c.id == bindparam("payment_id"))'
                ".with_for_update(key_share=True)",
                '_LOCK = select(payments).where(payments.c.id == bindparam("payment_id"))',
            ),
        ),
    ),
    Breakage(
        "open-attempt-does-not-stop-people",
        "a person, a new card or an operator makes a payment due though an attempt is open",
        ("I2", "I14"),
        (
            f"{LOST}test_an_unknown_attempt_blocks_every_other_path",
            f"{PHASES}test_a_person_is_refused_while_an_attempt_is_under_way",
            "cards/test_card_changed.py::test_a_payment_with_an_open_attempt_is_left_to_its_record",
        ),
        (Patch(PAYMENTS, "    if open_attempt(connection, payment.id) is not None:\n", "    if False:\n"),),
    ),
    Breakage(
        "people-may-charge-what-is-unknown",
        "an operator's charge isn't refused while nobody knows whether the last one moved money",
        ("I2", "I14"),
        (f"{PEOPLE}test_an_unknown_attempt_is_never_just_charged_again",),
        (Patch(REQUESTS, "        or _because_of_open_attempt(connection, payment)\n", ""),),
    ),
    Breakage(
        "people-need-no-reason",
        "an operator may charge without saying why",
        ("I14",),
        ("collection/test_reasons.py::test_a_person_who_gives_no_reason_changes_nothing",),
        (
            Patch(
                REQUESTS,
                '    if not reason.strip():\n        return Refused("no reason was given", "say why; the reason is '
                "kept in the payment's trail\")\n    refused = _why_not(",
                "    refused = _why_not(",
            ),
        ),
    ),
    Breakage(
        "people-go-unnamed",
        "what an operator asked for is written down as the machine's doing",
        ("I10", "I14"),
        (f"{PEOPLE}test_a_charge_goes_the_machines_way_with_name_and_reason",),
        (Patch(REQUESTS, "because = Because(who, now, reason)", 'because = Because("worker", now, reason)'),),
    ),
    Breakage(
        "hold-ignored",
        "a payment that an operator holds is charged all the same",
        ("I3", "I14"),
        (f"{CHARGES}test_a_person_who_cancels_at_the_processor_is_not_overruled",),
        (Patch(CLAIM, "    if payment.held_until is not None and payment.held_until > now:\n", "    if False:\n"),),
    ),
    Breakage(
        "due-on-the-machines-clock",
        "the claim compares a date of the calendar with the machine's time",
        ("I11",),
        (f"{CLOCKS}test_however_long_machines_run_nothing_is_due_before_its_date",),
        (Patch(CLAIM, "elif payment.next_attempt_at > now:", "elif payment.next_attempt_at > machine_now:"),),
    ),
    Breakage(
        "lease-on-the-business-clock",
        "a lease is counted on the calendar, which may be virtual, stand still or leap",
        ("I5", "I11"),
        (
            f"{CLOCKS}test_however_far_the_calendar_leaps_a_lease_lasts",
            f"{LOST}test_a_lost_decline_counts_once_and_only_after_the_lease",
        ),
        (Patch(CLAIM, "lease_expires_at = machine_now + runtime.lease", "lease_expires_at = now + runtime.lease"),),
    ),
    Breakage(
        "parked-without-a-move",
        "a claim that can't start what is due leaves it due, for the sweep to find again and again",
        ("I13",),
        (f"{CHARGES}test_without_a_card_nothing_is_sent",),
        (Patch(CLAIM, "    move_payment(connection, payment, to, Because(ACTOR, now, reason), **changes)\n", ""),),
    ),
    Breakage(
        "parked-without-a-word",
        "an attempt that is not made isn't recorded",
        ("I10", "I13"),
        (
            f"{CHARGES}test_without_a_card_nothing_is_sent",
            f"{PEOPLE}test_an_attempt_not_made_is_explained_with_its_reason",
        ),
        (Patch(CLAIM, '    next_at = changes.get("next_attempt_at")\n', "    return reason\n"),),
    ),
    Breakage(
        "waiting-payment-does-not-look-again",
        "a claim doesn't re-read the card revision of a payment that waits for a card",
        ("I15",),
        (f"{CHARGES}test_a_waiting_payment_is_woken_by_a_newer_card_only",),
        (
            Patch(
                CLAIM,
                "settings.card_revision <= payment.waiting_for_revision_after:",
                "True:",
            ),
        ),
    ),
    Breakage(
        "waiting-payment-is-always-woken",
        "a payment that waits for a card is charged again with the card that blocked it",
        ("I15",),
        ("collection/test_waiting.py::test_a_message_does_not_wake_a_payment_for_the_card_that_blocked_it",),
        (
            Patch(
                CLAIM,
                "settings.card_revision <= payment.waiting_for_revision_after:",
                "False:",
            ),
        ),
    ),
)

ASKING_A_CARD = (
    Breakage(
        "never-again-forgotten",
        "a card that its network forbids to ask again is asked",
        ("I13",),
        (f"{CHARGES}test_a_stolen_card_is_never_asked_again_whoever_registers_it",),
        (Patch(CLAIM, "    if card.block_reason is not None:\n", "    if False:\n"),),
    ),
    Breakage(
        "budget-not-counted",
        "the networks' budgets per card aren't looked at",
        ("I2",),
        (
            f"{CHARGES}test_a_budget_is_counted_over_all_payments_of_a_card",
            f"{PEOPLE}test_a_used_up_budget_is_refused_and_says_when_it_is_free",
        ),
        (
            Patch(
                BUDGETS,
                "check_network_budget(network, list(asked_at), now)",
                "check_network_budget(network, [], now)",
            ),
        ),
    ),
    Breakage(
        "budget-without-open-attempts",
        "attempts under way don't count in a card's budget",
        ("I2",),
        (f"{PHASES}test_an_attempt_under_way_counts_in_its_cards_budget",),
        (
            Patch(
                BUDGETS,
                "payment_attempts.c.state != AttemptState.NOT_SENT,",
                'payment_attempts.c.state.not_in(["not_sent", "started", "unknown"]),',
            ),
        ),
    ),
    Breakage(
        "budget-not-locked",
        "two workers may take the last allowed attempt of a card at the same instant",
        ("I2",),
        (f"{PHASES}test_one_card_of_two_payments_is_counted_and_claimed_by_one_at_a_time",),
        (Patch(CLAIM, "    lock_card(connection, payment.coverage, card.fingerprint)\n", ""),),
    ),
    Breakage(
        "outage-not-waited-for",
        "after an outage the processor is asked again at once",
        ("I7",),
        (
            f"{LOST}test_a_wrong_key_is_an_alarm_and_never_a_decline",
            "scheduler/test_sweep.py::test_an_outage_is_waited_for_in_machine_time",
        ),
        (
            Patch(
                CLAIM,
                "    if payment.backoff_until is not None and not has_come(payment.backoff_until, machine_now):\n",
                "    if False:\n",
            ),
            Patch(
                "shared/scheduling/due_work.py",
                "        or_(payments.c.backoff_until.is_(None), has_come(payments.c.backoff_until)),\n",
                "",
            ),
        ),
    ),
)

CHARGING = (*TWO_REQUESTS, *CLAIMING, *ASKING_A_CARD)
