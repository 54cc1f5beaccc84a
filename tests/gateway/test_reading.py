"""What is read of Stripe's objects where a field is null."""

import pytest

from shared.gateway.reading import read_card

CARD = {"brand": "visa", "last4": "4242", "exp_month": 1, "exp_year": 2035}


@pytest.mark.parametrize("fingerprint", [{"fingerprint": None}, {}])
def test_card_without_fingerprint_counts_as_a_card_of_its_own(fingerprint: dict[str, None]) -> None:
    cards = [read_card({"id": stripe_id, "card": {**CARD, **fingerprint}}) for stripe_id in ("pm_1", "pm_2")]
    assert [card.fingerprint for card in cards] == ["pm_1", "pm_2"]
