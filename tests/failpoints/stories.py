"""The three stories: a month's charges, what operators decide, and a night's reconciliation.

Between them they pass every failpoint.
"""

from datetime import date

from sqlalchemy import select, text

from shared.bulk.actions import BulkAction
from shared.bulk.lifecycle import ConfirmedPreview, Started, begin
from shared.bulk.preview import Preview, preview
from shared.db.billing_events import Cause
from shared.db.tables.payments import payments
from shared.domain.states import PaymentState
from shared.failpoints import Failpoint
from shared.messaging.jobs import ClosePayment
from shared.payments.operator.close import request_close
from simulator.issuer.stories import AlwaysDeclines, InsufficientFundsUntil, NeedsAuthentication, Pays
from tests.failpoints.company import Company
from tests.failpoints.story import Expected, People, Person, Story, new_card
from tests.world import api_key


def story_of(point: Failpoint) -> Story:
    """The story that a point is crashed at in."""
    if point.startswith("reconcile."):
        return A_NIGHT
    return DECISIONS if point.startswith(("end.", "bulk.")) else TWO_DAYS


def _two_days(company: Company, people: People) -> None:
    """Month start in chunks; bert's card declines, elsa's bank wants her, anna and carl have no card yet.

    Dora's card was removed at Stripe, and the webhook is lost: her charge is refused.
    A defect keeps bert's decline from being recorded; a look-up finds it once the defect is gone. A bank inquires
    about a charge, and is content.
    """
    company.has_defect = True
    dora = people["dora"]
    assert dora.card is not None
    company.mishaps.never_arrive.append("payment_method.detached")
    removed = f"{company.world.simulator.url}/v1/payment_methods/{dora.card.payment_method}/detach"
    company.http.post(removed, auth=_KEY).raise_for_status()
    company.sleep_and_work("2026-11-01 00:00")
    _first_of_november(company, people)
    asked_about = next(line.charge for line in company.world.simulator.iter_ledger("global"))
    inquiry = company.world.simulator.dispute_charge("global", asked_about, is_inquiry=True)
    company.work()
    company.world.simulator.close_dispute("global", inquiry, is_won=True)  # its finding resolves itself
    company.sleep_and_work("2026-11-02 09:00")  # bert's card pays at the daily run


def _first_of_november(company: Company, people: People) -> None:
    """Carl and anna bring cards, bert's is renewed. The processor is away for a moment, and a key is missing for
    one: two events have to come back. Anna's money moves, and the answer is lost.

    Elsa begins to confirm with her bank, and registers another card before she has; what we ask then is lost. Her
    third card is charged with a second PaymentIntent, once the first is canceled.
    """
    anna, bert, carl, elsa = people["anna"], people["bert"], people["carl"], people["elsa"]
    assert bert.card is not None
    company.without_key.append("payment_method.automatically_updated")
    company.world.simulator.automatically_update("global", bert.card.payment_method, exp_month=1, exp_year=2035)
    company.mishaps.unavailable.append("/v1/setup_intents")
    company.world.register_card(carl.account, new_card(company))
    company.world.register_card(people["dora"].account, new_card(company))
    anna.card = company.world.register_card(anna.account, new_card(company))
    company.mishaps.cut_after.append(anna.card_in_form)
    assert elsa.card is not None
    assert _confirms_on_our_page(company, elsa, elsa.card.payment_method) == "requires_action"
    elsa.card = company.world.register_card(elsa.account, new_card(company))
    company.mishaps.cut_before.append(elsa.card_in_form)
    company.work()
    company.register_card(elsa.account, new_card(company))


def _a_night(company: Company, people: People) -> None:
    """Finn pays on our page, and no webhook tells us; gina's payment has an orphan. The night finds both.

    The processor is away when the night begins, so that the run rests once.
    """
    company.sleep_and_work("2026-11-01 00:00")
    company.mishaps.never_arrive.append("payment_intent.succeeded")
    assert _confirms_on_our_page(company, people["finn"], new_card(company)) == "succeeded"
    orphan = _leaves_an_orphan(company, people["gina"])
    company.work()
    assert company.state(company.payment(people["finn"].account)) == "needs_authentication"
    company.mishaps.unavailable.append("/v1/charges")
    company.sleep_and_work("2026-11-02 04:00")
    answer = company.http.get(f"{company.world.simulator.url}/v1/payment_intents/{orphan}", auth=_KEY)
    assert answer.json()["status"] == "canceled"
    with company.world.engine.connect() as connection:
        found = connection.execute(text("SELECT kind FROM findings ORDER BY kind")).scalars().all()
    assert found == ["orphan_payment_intent", "paid_there_open_here"], "each was written down before it was fixed"


def _decisions(company: Company, people: People) -> None:
    """Hugo's and kurt's payments are written off together, and ida's is voided, while mona's is charged by hand.

    Hugo's card declined: his PaymentIntent is canceled first. The id of kurt's was never learnt, two days ago.
    """
    company.sleep_and_work("2026-11-01 00:00")
    _forgets_the_answer_to_a_create(company, people["kurt"])
    company.sleep_until("2026-11-02 08:00")
    _bulk(company, BulkAction.WRITE_OFF, people["hugo"], people["kurt"])
    _bulk(company, BulkAction.CHARGE, people["mona"])
    with company.world.engine.begin() as connection:
        requested = request_close(
            connection,
            company.world.policy,
            company.payment(people["ida"].account),
            PaymentState.VOID,
            Cause(OPERATOR, company.now, "never ordered"),
        )
    assert isinstance(requested, ClosePayment)
    company.work()
    with company.world.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT type, count(*) AS times FROM billing_events WHERE actor = :who GROUP BY type"),
            {"who": OPERATOR},
        )
        told = {row.type: row.times for row in rows}
        booked = connection.execute(text("SELECT result ->> 'done' FROM audit_log ORDER BY id")).scalars().all()
    assert told["ending_requested"] == 3, "decided about once each"
    assert told["bulk_action_begun"] == 2
    assert sorted(booked) == ["1", "2"], "each was finished once"


def _bulk(company: Company, action: BulkAction, *people: Person) -> None:
    """An operator confirms what they see, on their page: the web process lives on."""
    ids = select(payments.c.id).where(payments.c.account_id.in_([person.account.id for person in people]))
    with company.world.engine.begin() as connection:
        snapshot = preview(connection, action, ids, company.now, company.world.machine())
        assert isinstance(snapshot, Preview)
        assert snapshot.count == len(people)
        begun = begin(
            connection,
            ConfirmedPreview(action, {}, None, snapshot.digest),
            ids,
            Cause(OPERATOR, company.now, "month end"),
            company.world.machine(),
        )
    assert isinstance(begun, Started)


def _forgets_the_answer_to_a_create(company: Company, person: Person) -> None:
    """Two days ago a create was sent for a payment that waits for a card by now; its answer was lost."""
    with company.world.engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO payment_intents (payment_id, ordinal, coverage, amount_minor, currency,
                                             stripe_customer_id, create_parameters, api_version, first_sent_at)
                SELECT id, 1, coverage, amount_minor, currency, 'cus_1', '{}', '1', now() - interval '2 days'
                FROM payments WHERE id = :id
            """),
            {"id": company.payment(person.account)},
        )


OPERATOR = "operator:otto"
_KEY = (api_key("global"), "")


def _confirms_on_our_page(company: Company, person: Person, payment_method: str) -> str:
    """The customer confirms the payment's PaymentIntent with us out of the way; returns its status then."""
    (intent,) = company.world.intents(company.payment(person.account))
    answer = company.http.post(
        f"{company.world.simulator.url}/v1/payment_intents/{intent.stripe_payment_intent_id}/confirm",
        auth=_KEY,
        data={"payment_method": payment_method, "return_url": "https://example.com/back"},
    )
    answer.raise_for_status()
    return str(answer.json()["status"])


def _leaves_an_orphan(company: Company, person: Person) -> str:
    """A PaymentIntent that a database lost in a restore had made; returns its id."""
    payment = company.payment(person.account)
    answer = company.http.post(
        f"{company.world.simulator.url}/v1/payment_intents",
        auth=_KEY,
        data={
            "amount": "707",
            "currency": "usd",
            "customer": company.world.customer_id(person.account),
            "allowed_payment_method_types[]": "card",
            "metadata[duecourse_payment_id]": str(payment),
            "metadata[duecourse_ordinal]": "2",
            "metadata[duecourse_coverage]": "global",
        },
    )
    answer.raise_for_status()
    return str(answer.json()["id"])


#: Amounts are all different, so that no sum comes out right by accident.
TWO_DAYS = Story(
    cards={
        "anna": None,
        "bert": InsufficientFundsUntil(date=date(2026, 11, 2)),
        "carl": None,
        "dora": Pays(),
        "elsa": NeedsAuthentication(),
    },
    tell=_two_days,
    expected={
        "anna": Expected(owes=29_85),
        "bert": Expected(owes=11_30, requests=2),
        "carl": Expected(owes=7_07),
        "dora": Expected(owes=13_13),
        "elsa": Expected(owes=101_99, requests=2, intents=2),
    },
)
DECISIONS = Story(
    cards={
        "hugo": AlwaysDeclines(decline_code="insufficient_funds"),
        "ida": NeedsAuthentication(),
        "kurt": None,
        "mona": InsufficientFundsUntil(date=date(2026, 11, 2)),
    },
    tell=_decisions,
    expected={
        "hugo": Expected(owes=19_85, ends="uncollectible"),
        "ida": Expected(owes=31_30, ends="void"),
        "kurt": Expected(owes=8_08, requests=0, intents=0, ends="uncollectible"),
        "mona": Expected(owes=201_99, requests=2),
    },
)
A_NIGHT = Story(
    cards={"finn": NeedsAuthentication(), "gina": Pays()},
    tell=_a_night,
    expected={"finn": Expected(owes=42_00, requests=2), "gina": Expected(owes=7_07, intents=2)},
)
