"""A reseller pays for 25 accounts with one card that declines: what its network sees, from the processor's records.

`pytest -s tests/diaries/test_reseller.py` prints the declines of each day.
"""

from collections import Counter
from datetime import date, timedelta

import pytest

from shared.domain.declines import budgets_for
from simulator.issuer.stories import AlwaysDeclines
from tests.diaries.conftest import OpenDiary
from tests.seed import default_policy

ACCOUNTS, DAYS = 25, 30


@pytest.mark.parametrize(
    ("brand", "code", "on_day_one", "in_all"),
    [("visa", "insufficient_funds", 20, 20), ("mastercard", "insufficient_funds", 10, 35)],
)
def test_declines_of_one_card_stay_within_its_networks_limits(
    open_diary: OpenDiary, brand: str, code: str, on_day_one: int, in_all: int
) -> None:
    diary = open_diary(date(2026, 11, 1), default_policy())
    card = diary.world.simulator.make_card("global", AlwaysDeclines(decline_code=code), brand=brand)
    for number in range(ACCOUNTS):
        account = diary.account(f"R-{number:02d}")
        diary.fee(account, 10_00)
        diary.world.register_card(account, card.token)
    diary.work()

    diary.day(DAYS)
    charges = diary.charges()
    days = Counter(f"{moment:%m-%d}" for moment in charges)
    print(f"\n{brand}: {len(charges)} declines in {DAYS} days: {dict(sorted(days.items()))}")
    assert (days["11-01"], len(charges)) == (on_day_one, in_all)
    for budget in budgets_for(brand):
        for position, last in enumerate(charges):
            recent = [moment for moment in charges[: position + 1] if last - moment < budget.window]
            assert len(recent) <= budget.max_attempts, (budget, last)
    assert charges[0] + timedelta(days=DAYS) > charges[-1]
    assert diary.world.simulator.ledger() == []
