"""Any billing.toml that is accepted, with any decline at any moment: every decision is made, none raises."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from shared.domain.calendar import instant
from shared.domain.declines import Decline, category_of_code, facts
from shared.domain.dunning import (
    RetryOn,
    UnpaidPayment,
    check_network_budget,
    decide_after_decline,
    decide_standing,
)
from shared.domain.schedule import due_runs, next_moments
from shared.domain.states import PaymentKind, Standing
from shared.policy import Policy, PolicyError, parse_policy
from shared.scheduling.runs import schedule_of

NETWORKS = st.none() | st.sampled_from(["visa", "mastercard", "amex", "jcb"]) | st.text(max_size=4)
CODES = st.none() | st.sampled_from(sorted(category_of_code())) | st.text(max_size=6)
TWO_DIGITS = st.none() | st.integers(0, 99).map("{:02}".format) | st.text(max_size=3)
WHOLE = st.integers(-1, 400) | st.booleans() | st.floats(0, 9)
ZONES = st.sampled_from(
    ["UTC", "Asia/Tokyo", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Africa/Casablanca", "Asia"]
)


def fine(unusual: st.SearchStrategy[Any], usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly usual values, so that most of the files are accepted."""
    return st.integers(0, 29).flatmap(lambda choice: unusual if choice == 7 else usual)


TIMES = st.times().map("{:%H:%M}".format)
#: As people may write a time of day.
ODD_TIMES = (
    st.integers(-1, 86_400) | st.sampled_from(["09:00Z", "09:00+09:00", "9:00", "09:00:30", "24:00"]) | st.times()
)
DAYS = fine(WHOLE, st.integers(1, 365))
FILES = st.fixed_dictionaries(
    {
        "invoices": st.fixed_dictionaries(
            {
                "due_in_days": st.fixed_dictionaries({"card": DAYS, "bank_transfer": DAYS}),
                "catch_up_within_days": fine(WHOLE, st.integers(0, 31)),
            }
        ),
        "dunning": st.fixed_dictionaries(
            {
                "retry_at": TIMES | ODD_TIMES,
                "retry_every_days": st.fixed_dictionaries(
                    dict.fromkeys(("retry_soon", "retry_daily", "retry_sparingly"), DAYS)
                ),
                "slower": st.fixed_dictionaries({"after_declines": DAYS, "every_days": DAYS}),
                "mark_after_declines": fine(WHOLE, st.integers(1, 20)),
                "mark_after_days_past_due": DAYS,
                "stop_after_declines": fine(WHOLE, st.integers(20, 365)),
            }
        ),
        "reconciliation": st.fixed_dictionaries({"at": fine(ODD_TIMES, TIMES)}),
        "coverages": st.fixed_dictionaries(
            {
                "here": st.fixed_dictionaries(
                    {
                        "currency": st.just("USD"),
                        "time_zone": ZONES,
                        "invoice_prefix": st.just("H"),
                        "minimum_charge": st.just("0.50"),
                    }
                )
            }
        ),
    }
)
#: Each known code alone, and each pair of network codes on each network.
KNOWN_DECLINES = [
    *(Decline(code=code) for code in category_of_code()),
    *(Decline(decline_code=code) for code in category_of_code()),
    *(Decline(advice_code=code, decline_code="generic_decline") for code in facts()["advice_codes"]["codes"]),
    *(
        Decline(decline_code="insufficient_funds", network=network, **{name: f"{code:02}"})
        for network in ("visa", "mastercard", "amex", None)
        for name in ("network_advice_code", "network_decline_code")
        for code in range(100)
    ),
]
DECLINES = st.builds(
    Decline,
    code=CODES,
    decline_code=CODES,
    advice_code=st.none() | st.sampled_from([*facts()["advice_codes"]["codes"], "new"]),
    network_advice_code=TWO_DIGITS,
    network_decline_code=TWO_DIGITS,
    network=NETWORKS,
)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # drawn


def accepted(file: dict[str, Any]) -> Policy:
    try:
        return parse_policy(file, "billing.toml")
    except PolicyError:
        event("refused")
        assume(False)  # Hypothesis' own signature
        raise


@settings(max_examples=100, deadline=None)
@given(FILES, DECLINES, st.sampled_from(PaymentKind), st.integers(1, 400), MOMENTS)
def test_accepted_policy_decides_about_every_decline(
    file: dict[str, Any], odd_decline: Decline, kind: PaymentKind, count: int, now: datetime
) -> None:
    policy = accepted(file)
    zone = policy.coverage("here").zone
    local = now.astimezone(zone)
    for decline in (odd_decline, *KNOWN_DECLINES):
        decision = decide_after_decline(decline, kind, count, policy.dunning, local, local.date())
        if isinstance(decision, RetryOn):
            assert instant(decision.day, policy.dunning.retry_at, zone) > now


@settings(max_examples=200, deadline=None)
@given(
    FILES,
    st.sampled_from(Standing),
    st.lists(st.tuples(st.integers(0, 400), st.dates(date(2025, 1, 1), date(2041, 1, 1))), max_size=3),
    st.booleans(),
    MOMENTS,
)
def test_accepted_policy_decides_about_every_standing_and_run(
    file: dict[str, Any], standing: Standing, unpaid: list[tuple[int, date]], spared: bool, now: datetime
) -> None:
    policy = accepted(file)
    owed = [UnpaidPayment(str(number), declines, due) for number, (declines, due) in enumerate(unpaid)]
    decided = decide_standing(standing, owed, policy.dunning, now.date(), is_spared=spared)
    assert decided.reason
    schedule = schedule_of(policy)
    due_runs(schedule, now, (), {"here": now - timedelta(days=40)})
    assert all(moment > now for _entry, moment in next_moments(schedule, now))


@settings(deadline=None)
@given(NETWORKS, st.lists(st.timedeltas(timedelta(0), timedelta(days=40)), max_size=45), MOMENTS)
def test_network_budget_is_decided_for_every_network(
    network: str | None, ages: list[timedelta], now: datetime
) -> None:
    over = check_network_budget(network, [now - age for age in ages], now)
    assert over is None or over.free_at > now
