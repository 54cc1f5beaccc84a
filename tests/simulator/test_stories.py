"""Cards with a story answer by count and by the business clock, also after a restart."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import stripe

from shared.clock import ManualClock
from simulator.client import SimulatorClient, SimulatorError
from simulator.issuer.stories import (
    AlwaysDeclines,
    DeclinesThenPays,
    InsufficientFundsUntil,
    NeedsAuthentication,
    Pays,
    PaysUntil,
    Story,
    StoryError,
    story_from_json,
    story_to_json,
)
from simulator.testing import running_simulator
from tests.simulator.conftest import sdk
from tests.simulator.sdk_calls import body, confirm, new_intent, refusal


def outcome(client: stripe.StripeClient, customer: str, method: str) -> str:
    """Charge once with a new PaymentIntent: `paid`, or the decline code."""
    intent = new_intent(client, customer)
    try:
        return "paid" if confirm(client, intent.id, method).status == "succeeded" else "waits"
    except stripe.CardError as error:
        return str(body(error).get("decline_code") or error.code)


def test_declines_are_counted_across_intents_and_registrations(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    card = sim.make_card("global", DeclinesThenPays(times=3, decline_code="insufficient_funds"), brand="mastercard")
    first = sim.register_card("global", customer, card.token)
    again = sim.register_card("global", customer, card.token)
    assert first.payment_method != again.payment_method
    assert first.fingerprint == again.fingerprint == card.fingerprint
    said = [outcome(client, customer, method) for method in [first.payment_method, again.payment_method] * 2]
    assert said == ["insufficient_funds"] * 3 + ["paid"]
    seen = sim.card("global", again.payment_method)
    assert (seen.declined, seen.paid, seen.brand) == (3, 1, "mastercard")


def test_dates_are_on_the_business_clock(clock: ManualClock) -> None:
    with running_simulator(clock=clock) as own:
        client = sdk(own)
        customer = client.v1.customers.create({}).id
        poor = own.make_card("global", InsufficientFundsUntil(date=date(2026, 11, 12)))
        dying = own.make_card("global", PaysUntil(date=date(2026, 11, 12), decline_code="expired_card"))
        methods = [own.register_card("global", customer, card.token).payment_method for card in (poor, dying)]
        assert [outcome(client, customer, method) for method in methods] == ["insufficient_funds", "paid"]
        clock.set(datetime(2026, 11, 11, 23, 59, 59, tzinfo=UTC))
        assert [outcome(client, customer, method) for method in methods] == ["insufficient_funds", "paid"]
        clock.set(datetime(2026, 11, 12, tzinfo=UTC))
        assert [outcome(client, customer, method) for method in methods] == ["paid", "expired_card"]


def test_a_story_and_its_count_survive_a_restart(tmp_path: Path) -> None:
    with running_simulator(data_dir=tmp_path) as own:
        client = sdk(own)
        customer = client.v1.customers.create({}).id
        card = own.make_card("global", DeclinesThenPays(times=2, decline_code="do_not_honor"))
        method = own.register_card("global", customer, card.token).payment_method
        assert outcome(client, customer, method) == "do_not_honor"
    with running_simulator(data_dir=tmp_path) as own:
        client = sdk(own)
        assert [outcome(client, customer, method) for _ in range(2)] == ["do_not_honor", "paid"]


def test_the_story_of_a_card_can_be_replaced(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    card = sim.make_card("global", AlwaysDeclines(decline_code="lost_card"))
    method = sim.register_card("global", customer, card.token).payment_method
    assert outcome(client, customer, method) == "lost_card"
    sim.set_story("global", card.token, Pays())
    assert outcome(client, customer, method) == "paid"
    sim.set_story("global", card.fingerprint, AlwaysDeclines(decline_code="stolen_card"))
    assert outcome(client, customer, method) == "stolen_card"


def test_a_test_card_can_have_a_story_per_account() -> None:
    with running_simulator() as own:
        for account in ("global", "japan"):
            client = sdk(own, account)
            customer = client.v1.customers.create({}).id
            method = own.register_card(account, customer).payment_method
            if account == "global":
                own.set_story(account, method, AlwaysDeclines(decline_code="insufficient_funds"))
                assert outcome(client, customer, method) == "insufficient_funds"
            else:
                assert outcome(client, customer, method) == "paid"


def test_tokens_belong_to_their_account(sim: SimulatorClient, client: stripe.StripeClient) -> None:
    card = sim.make_card("japan")
    assert refusal(lambda: confirm(client, new_intent(client, None).id, card.token)).http_status == 400


@pytest.mark.parametrize(
    "story",
    [
        Pays(),
        AlwaysDeclines(decline_code="x", network_decline_code="Y", advice_code="try_again_later"),
        DeclinesThenPays(times=2),
        InsufficientFundsUntil(date=date(2026, 2, 28) + timedelta(days=1)),
        PaysUntil(date=date(2028, 2, 29)),
        NeedsAuthentication(),
    ],
)
def test_a_story_survives_json(story: Story) -> None:
    assert story_from_json(story_to_json(story)) == story


def test_an_invalid_story_is_refused_with_the_reason(sim: SimulatorClient) -> None:
    with pytest.raises(StoryError, match="kind"):
        story_from_json({"kind": "sings"})
    with pytest.raises(StoryError, match="date"):
        story_from_json({"kind": "pays_until", "date": "tomorrow"})
    with pytest.raises(StoryError, match="times"):
        story_from_json({"kind": "declines_then_pays"})
    with pytest.raises(SimulatorError, match="No such card"):
        sim.set_story("global", "pm_none", Pays())
