"""Breakages of what brings work back: the sweep and its sources, the doorbell, workers that stop, the scheduler."""

from tests.breakages.breakage import Breakage, Patch

SOURCES = "shared/scheduling/due_work.py"
SWEEP = "scheduler/sweep.py"
BROKER = "shared/messaging/broker.py"
ACTORS = "workers/actors.py"

SWEEPS = "scheduler/test_sweep.py::"
MESSAGES = "broker/test_lost_messages.py::"
JOBS = "broker/test_jobs_and_actors.py::"
LEADING = "scheduler/test_scheduler.py::"
KILLED = "processes/test_killed_processes.py::"


def without(name: str, line: str, test: str) -> Breakage:
    """The sweep without one of its sources."""
    return Breakage(
        f"sweep-without-{name}",
        f"the sweep doesn't look for {name.replace('-', ' ')}",
        ("I15",) if name == "payments-with-a-new-card" else ("I13",),
        (f"{SWEEPS}{test}",),
        (Patch(SOURCES, line, ""),),
    )


SWEEPING = (
    Breakage(
        "sweep-off",
        "the scheduler ticks, and sweeps nothing",
        ("I13",),
        (f"{LEADING}test_past_the_catch_up_window_a_run_waits_for_a_named_person_with_a_reason",),
        (Patch("scheduler/app.py", "        self._sweep(Moment(now, self._machine_now()))\n", ""),),
    ),
    Breakage(
        "outage-waited-out",
        "after an outage every payment waits out its pause, up to an hour",
        ("I13",),
        (f"{LEADING}test_a_pause_that_an_outage_made_long_ends_when_others_are_answered",),
        (Patch("scheduler/app.py", "        self._wake(now)\n", ""),),
    ),
    Breakage(
        "outage-over-for-all",
        "an answer in one coverage ends the pauses of every other",
        ("I13",),
        ("collection/test_outage_over.py::test_the_answers_of_one_coverage_say_nothing_of_another",),
        (
            Patch(
                "shared/payments/outages.py",
                "JOIN answered ON answered.coverage = p.coverage",
                "CROSS JOIN answered",
            ),
        ),
    ),
    Breakage(
        "sweep-rings-nothing",
        "the sweep finds what is due and doesn't ring for it",
        ("I13",),
        (
            f"{MESSAGES}test_a_flushed_redis_costs_one_sweep",
            f"{MESSAGES}test_what_a_killed_worker_had_fetched_is_rung_again_without_dramatiqs_maintenance",
            f"{SWEEPS}test_a_flushed_redis_heals_at_the_next_sweep",
        ),
        (Patch(SWEEP, "            if lost_or_new:\n", "            if False:\n"),),
    ),
    Breakage(
        "sweep-remembers-for-ever",
        "what was rung for once isn't rung for again, though the message may be lost",
        ("I13",),
        (
            f"{SWEEPS}test_a_flushed_redis_heals_at_the_next_sweep",
            f"{SWEEPS}test_what_was_just_rung_is_not_rung_again_while_it_probably_waits",
        ),
        (Patch(SWEEP, "is None or rung_at <= since]", "is None]"),),
    ),
    without(
        "unfinished-runs",
        '    Source("unfinished runs", RUNS, UNFINISHED_RUNS, lambda row: job_of_run(row.job, row.id)),\n',
        "test_unfinished_runs_are_rung_for_and_no_others",
    ),
    without(
        "stripe-events",
        '    Source(\n        "stripe events", INTERACTIVE, STRIPE_EVENTS, '
        "lambda row: ApplyStripeEvent(row.coverage, row.stripe_event_id)\n    ),\n",
        "test_stripe_events_are_rung_for_until_they_are_applied",
    ),
    without(
        "payments-with-a-new-card",
        '    Source("payments with a new card", INTERACTIVE, PAYMENTS_WITH_A_NEW_CARD, '
        "_charge(Lane.INTERACTIVE)),\n",
        "test_a_payment_whose_blocking_card_was_replaced_is_woken_although_nobody_rang",
    ),
    without(
        "expired-leases",
        '    Source("expired leases", SETTLEMENT, EXPIRED_LEASES, lambda row: SettleAttempt(row.id)),\n',
        "test_an_open_attempt_blocks_its_payment_until_its_lease_is_over_and_then_it_is_settled",
    ),
    without(
        "unknown-attempts",
        '    Source("unknown attempts", SETTLEMENT, UNKNOWN_ATTEMPTS, lambda row: SettleAttempt(row.id)),\n',
        "test_an_unknown_attempt_is_looked_up_when_it_is_time",
    ),
    Breakage(
        "sweep-without-due-payments-of-the-interactive-lane",
        "the sweep doesn't look for due payments that somebody waits for",
        ("I13",),
        (f"{SWEEPS}test_a_payment_whose_time_has_come_is_rung_for_on_its_lane",),
        (Patch(SOURCES, "for lane in (Lane.INTERACTIVE, Lane.BATCH)", "for lane in (Lane.BATCH,)"),),
    ),
    Breakage(
        "sweep-without-due-payments-of-the-batch-lane",
        "the sweep doesn't look for due payments of month start and daily retry",
        ("I13",),
        (f"{SWEEPS}test_a_payment_whose_time_has_come_is_rung_for_on_its_lane",),
        (Patch(SOURCES, "for lane in (Lane.INTERACTIVE, Lane.BATCH)", "for lane in (Lane.INTERACTIVE,)"),),
    ),
)

RINGING = (
    Breakage(
        "ring-raises",
        "a Redis that is away raises into code that has committed already",
        ("I4",),
        ("broker/test_ring.py::test_with_redis_away_ring_says_so_and_rings_again_when_it_is_back",),
        (
            Patch(
                BROKER,
                '        log.warning(\n            "doorbell.unreachable"',
                '        raise\n        log.warning(\n            "doorbell.unreachable"',
            ),
        ),
    ),
    Breakage(
        "unreadable-message-not-set-aside",
        "a message that can't be read takes those behind it along",
        ("I13",),
        (f"{MESSAGES}test_a_message_that_cannot_be_read_is_set_aside_and_those_behind_it_are_done_at_once",),
        (Patch(BROKER, "if body is None or is_readable(body, queue_name):", "if True:"),),
    ),
    Breakage(
        "raising-actor-leaves-no-dead-letter",
        "the message of an actor that raised disappears without a trace",
        ("I13",),
        (f"{MESSAGES}test_an_actor_that_raises_leaves_a_dead_letter_and_its_row_comes_back",),
        (
            Patch(
                BROKER, "TimeLimit(time_limit=90_000), Retries(max_retries=0), ", "TimeLimit(time_limit=90_000), "
            ),
        ),
    ),
    Breakage(
        "messages-are-retried",
        "Dramatiq retries what raised, on a counter of its own beside the rows",
        ("I4", "I13"),
        (f"{MESSAGES}test_an_actor_that_raises_leaves_a_dead_letter_and_its_row_comes_back",),
        (Patch(BROKER, "Retries(max_retries=0), ", "Retries(max_retries=3), "),),
    ),
    Breakage(
        "charges-are-retried",
        "the actor that charges has retries of its own",
        ("I4", "I13"),
        (f"{JOBS}test_an_actor_takes_the_strings_that_its_job_sends",),
        (Patch(ACTORS, 'actor_name="charge_payment", ', 'actor_name="charge_payment", max_retries=3, '),),
    ),
    Breakage(
        "charge-may-outlast-its-lease",
        "the actor that charges may run longer than its lease lasts",
        ("I5",),
        (f"{JOBS}test_a_charge_must_end_well_before_its_lease",),
        (Patch(ACTORS, "CHARGE_TIME_LIMIT_MS = 90_000", "CHARGE_TIME_LIMIT_MS = 400_000"),),
    ),
    Breakage(
        "no-sigterm-debounce",
        "a second SIGTERM within moments kills a worker in mid-charge",
        ("I5",),
        (f"{KILLED}test_a_worker_that_is_told_twice_to_stop_finishes_the_charges_in_its_hands",),
        (
            Patch(
                BROKER,
                "            if first_at and now - first_at[0] < SIGTERM_DEBOUNCE_S:\n",
                "            if False:\n",
            ),
        ),
    ),
)

SCHEDULING = (
    Breakage(
        "everybody-leads",
        "a scheduler acts without having the lead",
        ("I1",),
        (f"{LEADING}test_only_one_leads_and_everyone_can_see_whether_somebody_does",),
        (
            Patch(
                "scheduler/app.py", "                if self._leadership.is_ours():\n", "                if True:\n"
            ),
        ),
    ),
    Breakage(
        "run-made-twice",
        "runs have no unique key, and two schedulers both insert one",
        ("I1",),
        (f"{LEADING}test_two_that_both_believe_they_lead_still_make_one_run",),
        (
            Patch(
                "shared/scheduling/runs.py",
                ".on_conflict_do_nothing(index_elements=[runs.c.job, runs.c.period, runs.c.coverage])",
                ".on_conflict_do_nothing()",
            ),
        ),
        ("ALTER TABLE runs DROP CONSTRAINT uq_runs_job_period_coverage",),
    ),
    Breakage(
        "run-not-locked",
        "two workers do the same chunk of a run at once",
        ("I1", "I4"),
        ("scheduler/test_turns.py::test_a_run_that_is_being_worked_on_is_nobody_elses",),
        (Patch("shared/scheduling/runs.py", "        .with_for_update(skip_locked=True)\n", ""),),
    ),
)

WAKING = (*SWEEPING, *RINGING, *SCHEDULING)
