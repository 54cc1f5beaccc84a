"""The model: a company in which anything may happen next, in any order. Each rule's docstring says what.

Rules choose with plain numbers among what is there, in an order that is the same each time, so that an example
can be repeated and made smaller.
"""

import sys
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from scheduler.tick import tick
from shared.messaging.jobs import GenerateInvoices, ReconcileCharges, RetryPayments, SettleAttempt
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays, NeedsAuthentication, Pays, Story
from tests.model.company import COVERAGES
from tests.model.invariants import INVARIANTS
from tests.model.last_steps import finish_example
from tests.model.surroundings import ALL_KINDS, Fate, Lost, Surroundings
from tests.model.weather import LOST_ANSWERS, TROUBLES
from tests.model.workers import AROUND_REQUESTS, Where

#: What a card may say, by the name that an example shows.
STORIES: dict[str, Story] = {
    "pays": Pays(),
    "declines once, then pays": DeclinesThenPays(times=1, decline_code="insufficient_funds"),
    "declines four times, then pays": DeclinesThenPays(times=4, decline_code="insufficient_funds"),
    "declines softly": AlwaysDeclines(decline_code="insufficient_funds"),
    "declines as never seen before": AlwaysDeclines(decline_code="moon_in_the_wrong_house"),
    "is expired": AlwaysDeclines(decline_code="expired_card"),
    "is lost, never ask again": AlwaysDeclines(decline_code="lost_card"),
    "our request looks wrong": AlwaysDeclines(decline_code="invalid_amount"),
    "needs authentication": NeedsAuthentication(),
}
#: Minor units; some are below the processor's minimum of 50 and wait for the next month's fees.
AMOUNTS = (29_85, 5_00, 30, 0)
MACHINE_STEPS = {
    "ten seconds": timedelta(seconds=10),
    "two minutes": timedelta(minutes=2),
    "past every lease": timedelta(minutes=6),
    "an hour": timedelta(hours=1),
    "past the age of keys": timedelta(hours=25),
}

picks = st.integers(0, 11)
stories = st.sampled_from(sorted(STORIES))
#: Where a worker is killed or freezes: by number a step or place of any kind, by name around a request.
steps = st.integers(1, 48) | st.sampled_from(AROUND_REQUESTS)
places = st.integers(1, 9) | st.sampled_from(AROUND_REQUESTS)
#: What becomes of the worker of a charge.
fates = st.none() | st.tuples(st.just("killed"), steps) | st.tuples(st.just("stands"), places)
#: The answer of which request is lost, and how; a PaymentIntent that we know isn't created again.
lost_answers = st.none() | st.sampled_from(LOST_ANSWERS)


class Model(Surroundings):
    """One example: everything that may happen, and what holds after each of it."""

    # -- the beginning

    @initialize(first=st.tuples(stories, stories), amounts=st.tuples(*[st.sampled_from(AMOUNTS[:2])] * 2))
    def company_opens(self, first: tuple[str, str], amounts: tuple[int, int]) -> None:
        """Two accounts in two currencies, each with a card and a fee; the first month is over and invoiced."""
        for number, (coverage, story) in enumerate(zip(COVERAGES, first, strict=True)):
            self.people.append(self._join(f"A-{number}", coverage, story, STORIES[story]))
        tick(self.company.engine, self.company.policy, self.company.clock.now())
        self._month_passes(amounts)
        self.work_on(GenerateInvoices, RetryPayments, ReconcileCharges)
        self.sweep_enqueues()

    # -- customers and their cards

    @rule(
        who=picks,
        story=stories | st.none(),
        brand=st.sampled_from(["visa", "mastercard"]),
        intent=st.sampled_from(["replace", "add"]),
        told=st.booleans(),
    )
    def customer_registers_a_card(self, who: int, story: str | None, brand: str, intent: str, told: bool) -> None:
        """A customer registers a new card (without a story: the one they have, once more), instead of the old one
        or beside it; we are told at once, or later.
        """
        person = self._person(who)
        token = person.tokens[-1]
        if story is not None:
            account = self.company.account_of(person.account.coverage)
            token = self.company.simulator.make_card(account, STORIES[story], brand=brand).token
            person.story = story
        self.at_processor(person, token, intent)
        if told:
            self.deliver_all("setup_intent.succeeded")

    @rule(who=picks, story=stories)
    def card_changes_its_mind(self, who: int, story: str) -> None:
        """What a card's issuer says is another thing from now on."""
        person = self._person(who)
        account = self.company.account_of(person.account.coverage)
        self.company.simulator.set_story(account, person.cards[-1].fingerprint, STORIES[story])
        person.story = story

    @rule(who=picks, year=st.integers(2030, 2035))
    def card_is_renewed_by_its_network(self, who: int, year: int) -> None:
        """The network's updater renews a card's expiry behind the same PaymentMethod."""
        person = self._person(who)
        account = self.company.account_of(person.account.coverage)
        card = person.cards[-1].payment_method
        self._at_processors_desk(
            lambda: self.company.simulator.automatically_update(account, card, exp_month=5, exp_year=year)
        )

    @rule(who=picks)
    def card_is_removed(self, who: int) -> None:
        """A customer's newest card is detached."""
        person = self._person(who)
        path = f"/v1/payment_methods/{person.cards[-1].payment_method}/detach"
        self.company.ask(person.account.coverage, "POST", path)

    # -- time

    @precondition(lambda self: self._months_left() > 0)
    @rule(amounts=st.tuples(*[st.sampled_from(AMOUNTS)] * 2))
    def month_passes(self, amounts: tuple[int, int]) -> None:
        """Every account has a fee, the month ends, and the scheduler's tick makes its run due. Nobody works yet."""
        self._month_passes(amounts)

    @rule(days=st.integers(1, 3))
    def days_pass(self, days: int) -> None:
        """Some days later at ten: the daily retries are due, and messages of the tick wait. Nobody works yet."""
        later = self.company.clock.now() + timedelta(days=days)
        self._pass_business_time(later.replace(hour=10))

    @rule(step=st.sampled_from(sorted(MACHINE_STEPS)))
    def machine_time_passes(self, step: str) -> None:
        """Leases and back-offs run out, at the far end the processor forgets idempotency keys."""
        self.pass_machine_time(MACHINE_STEPS[step])

    # -- messages

    @rule()
    def sweep_enqueues(self) -> None:
        """A leader that remembers nothing rings for whatever is due: lost messages come back, others come twice."""
        self.enqueue_due_jobs()

    @rule(which=picks, times=st.integers(1, 2), with_all_others=st.booleans())
    def message_is_done(self, which: int, times: int, with_all_others: bool) -> None:
        """A worker does any one of the messages that wait; or does it, and it is delivered once more; and perhaps
        workers do all others too, and what they ring for while they do.
        """
        job = self._take(which)
        for _ in range(times if job else 0):
            self.company.do(job)
        if with_all_others:
            self.work_on(*ALL_KINDS)

    @precondition(lambda self: self.company.mailbox)
    @rule()
    def messages_are_lost(self) -> None:
        """Valkey is flushed: only the rows know what is due."""
        self.company.mailbox.clear()

    # -- workers

    @rule(which=picks, step=steps)
    def worker_is_killed(self, which: int, step: Where) -> None:
        """A worker is killed with -9 at a statement, commit, request, ring or failpoint; its message is gone."""
        job = self._take(which)
        if job is not None:
            self._kill_at(job, step)

    @rule(which=picks, place=places)
    def worker_stands_still(self, which: int, place: Where) -> None:
        """A worker freezes where no transaction is open: before or after a request, a transaction, a ring."""
        job = self._take(which)
        if job is not None:
            self._stand_at(job, place)

    @precondition(lambda self: self.snapshot.payments)
    @rule(which=picks, lost=lost_answers, fate=fates)
    def charge_message_comes(self, which: int, lost: Lost, fate: Fate) -> None:
        """A message to charge any payment is delivered, though nobody may have rung; an answer may be lost, and
        the worker may be killed or freeze.
        """
        self._charge_message_comes(self._payment(which), lost, fate)

    @precondition(lambda self: self.snapshot.payments)
    @rule(which=picks, lost=lost_answers, fate=fates)
    def operator_requests_a_charge(self, which: int, lost: Lost, fate: Fate) -> None:
        """An operator asks for a payment to be charged now; it is refused, or due at once and its message comes."""
        payment = self._payment(which)
        self.operator_requests_charge(payment.id)
        self._charge_message_comes(payment, lost, fate)

    @precondition(lambda self: any(self.snapshot.attempts.values()))
    @rule(which=picks)
    def settle_message_comes(self, which: int) -> None:
        """A message to settle any attempt is delivered, whether or not its lease is over: some are old."""
        attempts = [
            attempt for payment_id in self.snapshot.payments for attempt in self.snapshot.attempts[payment_id]
        ]
        self.company.do(SettleAttempt(attempts[which % len(attempts)].id))

    @precondition(lambda self: self.standing)
    @rule(which=picks, is_killed=st.booleans())
    def standing_worker_goes_on(self, which: int, is_killed: bool) -> None:
        """A frozen worker goes on, however long it stood; or is killed where it stands."""
        worker = self.standing.pop(which % len(self.standing))
        self._note_if_overtaken(worker)
        if is_killed:
            worker.kill()
        else:
            worker.go_on()

    # -- the processor and the way there

    @rule(trouble=st.sampled_from(LOST_ANSWERS) | st.sampled_from(TROUBLES), times=st.integers(1, 3))
    def processor_has_trouble(self, trouble: tuple[str, str], times: int) -> None:
        """The next requests of an operation meet trouble: every kind that the simulator can script (cut before,
        after and in the middle of the answer, 400, 401, 403, 409, 429, 500 applied and not applied, 503, HTML, the
        limit, a person who cancels), or they are late.
        """
        self.company.weather.add(*trouble, times)

    @precondition(lambda self: self.company.weather.late)
    @rule(which=picks)
    def late_request_arrives(self, which: int) -> None:
        """A request whose sender has long given it up reaches the processor and is applied."""
        weather = self.company.weather
        self.met["late requests"] += 1
        index = which % len(weather.late)
        self._note_late(weather.late[index].path)
        self.company.let_late_request_arrive(index)

    @precondition(lambda self: self.snapshot.payments)
    @rule(which=picks, reason=st.sampled_from(["requested_by_customer", "duplicate", "fraudulent"]))
    def payment_intent_is_canceled_in_the_stripe_dashboard(self, which: int, reason: str) -> None:
        """A user cancels a payment's PaymentIntent in Stripe's own dashboard."""
        payment = self._payment(which)
        intents = [i for i in self.snapshot.intents[payment.id] if i.stripe_payment_intent_id is not None]
        if intents:
            account = self.company.account_of(payment.coverage)
            stripe_id = intents[-1].stripe_payment_intent_id
            self._at_processors_desk(
                lambda: self.company.simulator.cancel_payment_intent(account, stripe_id, reason)
            )

    @precondition(lambda self: self.snapshot.ledger)
    @rule(which=picks, happens=st.sampled_from(["refunded", "partly refunded", "disputed", "won", "lost"]))
    def charge_is_refunded_or_disputed(self, which: int, happens: str) -> None:
        """A user refunds a captured charge in Stripe's dashboard, or the cardholder's bank disputes it."""
        line = self.snapshot.ledger[which % len(self.snapshot.ledger)]
        simulator = self.company.simulator

        def act() -> None:
            if "refunded" in happens:
                simulator.refund_charge(line.account, line.charge, None if happens == "refunded" else 1)
                self.refunded.add(line.charge)
                return
            dispute = simulator.dispute_charge(line.account, line.charge)
            self.disputed.add(dispute)
            if happens != "disputed":
                simulator.close_dispute(line.account, dispute, is_won=happens == "won")

        self._at_processors_desk(act)
        self._read_news()  # sent now; it may arrive late, twice or never

    @precondition(lambda self: any(person.story == "needs authentication" for person in self.people))
    @rule(which=picks, answer=st.sampled_from(["none", "yes", "no"]))
    def bank_requests_authentication(self, which: int, answer: str) -> None:
        """A customer confirms a payment in their browser, and their bank requests authentication: they haven't
        answered yet, or they have. The PaymentIntent waits in `requires_action`, is paid, or isn't, with no
        attempt of ours.
        """
        payment = self._payment(which)
        person = next(one for one in self.people if one.account.id == payment.account_id)
        live = [
            i for i in self.snapshot.intents[payment.id] if i.closed_reason is None and i.stripe_payment_intent_id
        ]
        if person.story != "needs authentication" or not live:
            return
        stripe_id, card = live[0].stripe_payment_intent_id, person.cards[-1].payment_method
        path = f"/v1/payment_intents/{stripe_id}/confirm"
        self.company.ask(payment.coverage, "POST", path, data={"payment_method": card})
        self.met["authentication requested"] += 1
        if answer != "none":
            self.looker.loose.add(payment.id)
            account = self.company.account_of(payment.coverage)
            self._at_processors_desk(
                lambda: self.company.simulator.authenticate(account, stripe_id, succeeds=answer == "yes")
            )
            self.company.weather.applied += 1

    # -- webhooks

    @rule(which=picks, times=st.integers(0, 2))
    def webhook_arrives(self, which: int, times: int) -> None:
        """Any of the webhooks under way arrives, once or twice, or is lost: no order is promised."""
        self._read_news()
        if self.mail:
            coverage, event = self.mail.pop(which % len(self.mail))
            for _ in range(times):
                self.company.deliver(coverage, event)

    @rule(is_reversed=st.booleans())
    def all_webhooks_arrive(self, is_reversed: bool) -> None:
        """All webhooks arrive, in their order or the other way round."""
        self._read_news()
        mail, self.mail = self.mail, []
        for coverage, event in reversed(mail) if is_reversed else mail:
            self.company.deliver(coverage, event)

    # -- settlement

    @rule()
    def outage_ends_and_settlement_runs(self) -> None:
        """Fair weather, machine time past every lease and look-up, sweep, settlement: then no attempt is open.

        A look-up by a worker that stands still doesn't keep others from looking.
        """
        self.company.weather.clear()
        self.pass_machine_time(timedelta(minutes=21))
        self.sweep_enqueues()
        self.work_on(SettleAttempt)
        self.snapshot = self.look_without_news()
        still_open = [a for a in self.snapshot.all_attempts() if a.state in ("started", "unknown")]
        if still_open:
            raise self.snapshot.broken(
                "still open after settlement with the processor answering", still_open[0].payment_id
            )

    # -- what holds

    @invariant()
    def everything_holds(self) -> None:
        """All of INVARIANTS, after every step."""
        self.snapshot = self._look()
        for holds in INVARIANTS:
            holds(self.snapshot)

    def teardown(self) -> None:
        """The end of each example: see `finish_example`."""
        try:
            if self.people and sys.exc_info()[0] is None:  # after a break the end would only hide its cause
                finish_example(self)
        finally:
            for worker in self.standing:
                worker.kill()
