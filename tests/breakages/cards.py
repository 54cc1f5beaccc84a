"""Breakages of what Stripe and customers tell us: webhooks, events, cards that come, change and go."""

from tests.breakages.breakage import Breakage, Patch

WEBHOOKS = "shared/gateway/stripe_webhooks.py"
APPLY = "workers/use_cases/apply_stripe_event.py"
CARDS = "shared/accounts/cards.py"

SIGNED = "web/test_webhook_signatures.py::"
STORED = "web/test_webhook_storage.py::"
APPLIED = "cards/test_apply_stripe_event.py::"
REGISTERED = "cards/test_card_registered.py::"
CHANGED = "cards/test_card_changed.py::"
MOMENTS = "diaries/test_at_the_same_moment.py::"

WEBHOOK = (
    Breakage(
        "signature-not-checked",
        "anybody may tell us what happened at Stripe",
        ("I12",),
        (f"{SIGNED}test_what_stripe_did_not_sign_just_now_is_refused_and_not_stored",),
        (
            Patch(
                WEBHOOKS,
                "        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_S)\n",
                "        pass\n",
            ),
        ),
    ),
    Breakage(
        "signature-good-for-ever",
        "a webhook may be replayed after years",
        ("I12",),
        (f"{SIGNED}test_what_stripe_did_not_sign_just_now_is_refused_and_not_stored",),
        (Patch(WEBHOOKS, "TOLERANCE_S = 300", "TOLERANCE_S = 10**9"),),
    ),
    Breakage(
        "webhook-stored-twice",
        "an event that is sent again is stored again",
        ("I12",),
        (
            f"{STORED}test_an_event_sent_three_times_is_stored_and_rung_once",
            f"{STORED}test_hundreds_at_once_are_stored_once_each",
        ),
        (),
        ("ALTER TABLE stripe_events DROP CONSTRAINT pk_stripe_events",),
    ),
    Breakage(
        "accepted-though-not-stored",
        "the answer is 200 though the event isn't in the database, and Stripe never sends it again",
        ("I4",),
        (f"{STORED}test_a_database_that_is_down_makes_stripe_send_again",),
        (
            Patch(
                "web/webhooks.py",
                "return _send_again(coverage, event, type(error.__cause__ or error).__name__)",
                "return Response(status_code=200)",
            ),
        ),
    ),
)

EVENTS = (
    Breakage(
        "event-applied-twice",
        "a worker applies an event though another has done so meanwhile",
        ("I15",),
        (f"{APPLIED}test_a_worker_so_slow_that_another_took_over_applies_nothing_twice",),
        (Patch(APPLY, "    if state not in OPEN:\n", "    if False:\n"),),
    ),
    Breakage(
        "event-fetched-inside-a-transaction",
        "the truth behind an event is fetched with a transaction open",
        ("I4",),
        (
            "cards/test_looking_holds_nothing.py::test_no_transaction_is_open_while_the_truth_behind_an_event_is_fetched",
        ),
        (
            Patch(
                APPLY,
                "        apply = _fetch(runtime, event)\n",
                "        with runtime.engine.begin() as held:\n"
                "            held.execute(select(stripe_events.c.state))\n"
                "            apply = _fetch(runtime, event)\n",
            ),
        ),
    ),
    Breakage(
        "trouble-swallowed",
        "an event that can't be applied is noted, but nobody sees the exception",
        ("I10",),
        (f"{APPLIED}test_a_defect_is_noted_raised_and_after_twenty_times_left_to_an_operator",),
        (
            Patch(
                APPLY,
                "        _note_trouble(runtime, event, error)\n        raise\n",
                "        _note_trouble(runtime, event, error)\n        return\n",
            ),
        ),
    ),
    Breakage(
        "trouble-noted-with-secrets",
        "a key or an address in an exception's words is stored with the event",
        ("I12",),
        (f"{APPLIED}test_a_trouble_is_noted_without_secrets",),
        (
            Patch(
                APPLY,
                'redact(f"{type(error).__name__}: {error}")[:500]',
                'f"{type(error).__name__}: {error}"[:500]',
            ),
        ),
    ),
)

CARD = (
    Breakage(
        "registration-counts-each-time",
        "a SetupIntent makes its card primary again whenever we are told of it; only the key stands in the way",
        ("I15",),
        (
            f"{REGISTERED}test_one_registration_told_by_five_events_charges_once",
            f"{REGISTERED}test_a_late_repetition_of_an_added_card_does_not_make_it_primary",
        ),
        (Patch(CARDS, "    if _is_registered(connection, registration):\n", "    if False:\n"),),
    ),
    Breakage(
        "registration-counts-each-time-without-a-key",
        "nothing remembers that a SetupIntent has made its card primary",
        ("I15",),
        (
            f"{REGISTERED}test_one_registration_told_by_five_events_charges_once",
            f"{REGISTERED}test_a_late_repetition_of_an_added_card_does_not_make_it_primary",
        ),
        (Patch(CARDS, "    if _is_registered(connection, registration):\n", "    if False:\n"),),
        ("ALTER TABLE card_registrations DROP CONSTRAINT pk_card_registrations",),
    ),
    Breakage(
        "card-of-another-customer",
        "a SetupIntent may name the payment settings of somebody else",
        ("I12",),
        (f"{REGISTERED}test_a_setup_intent_that_is_not_quite_ours_makes_no_card_primary",),
        (
            Patch(
                CARDS,
                "    if refusal is not None:\n        return CardChange(refusal",
                "    if False:\n        return CardChange(refusal",
            ),
        ),
    ),
    Breakage(
        "card-moved-unnoticed",
        "what was fetched of a card is applied though the card has changed since",
        ("I15",),
        (f"{CHANGED}test_a_card_that_changed_while_we_looked_is_looked_at_again",),
        (Patch(CARDS, "    if row != known:\n", "    if False:\n"),),
    ),
    Breakage(
        "revision-not-raised",
        "the card changes, and its revision doesn't",
        ("I15",),
        (
            f"{MOMENTS}test_a_card_registered_while_the_old_one_is_asked_pays_when_that_declines",
            f"{MOMENTS}test_registered_and_attached_may_come_in_any_order",
        ),
        (
            Patch(
                CARDS,
                "card_revision=payment_settings.c.card_revision + 1",
                "card_revision=payment_settings.c.card_revision",
            ),
        ),
    ),
    Breakage(
        "new-card-overrules-a-hold",
        "a card registered again makes a payment due that an operator holds",
        ("I14",),
        (f"{REGISTERED}test_an_operators_hold_outlasts_a_new_card_and_the_trail_says_so",),
        (
            Patch(
                CARDS,
                "        if payment.held_until is not None and payment.held_until > because.at:\n",
                "        if False:\n",
            ),
        ),
    ),
)

CARDS_AND_EVENTS = (*WEBHOOK, *EVENTS, *CARD)
