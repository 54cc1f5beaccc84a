"""A month's money per coverage, and the share of declined money recovered, by day since the first decline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Date, DateTime, Text

from shared.domain.calendar import Period, instant, local_date
from shared.domain.states import UNPAID, PaymentState
from shared.policy import Coverage, Policy

#: Days since the first decline that the curve shows: by then a month's dunning is over.
CURVE_DAYS = 30
#: Invoices that are not collected: void, or carried forward to the next month's.
NOT_COLLECTED = frozenset({PaymentState.VOID, PaymentState.CARRIED_FORWARD})


@dataclass(frozen=True)
class Sum:
    """A number of payments and their total in minor units."""

    payments: int = 0
    amount_minor: int = 0

    def __add__(self, other: "Sum") -> "Sum":
        return Sum(self.payments + other.payments, self.amount_minor + other.amount_minor)


@dataclass(frozen=True)
class MonthsMoney:
    """One coverage's month. `invoiced` is `collected`, `outstanding` and `written_off` together.

    `recovered` is what of `collected` was declined at least once; `at_risk` what of `outstanding` was declined or
    is past its due date; `not_attempted` what of it is due and waits for its attempt.
    """

    coverage: str
    currency: str
    period: Period
    invoiced: Sum = Sum()
    collected: Sum = Sum()
    outstanding: Sum = Sum()
    written_off: Sum = Sum()
    recovered: Sum = Sum()
    at_risk: Sum = Sum()
    not_attempted: Sum = Sum()


@dataclass(frozen=True)
class Curve:
    """Of the money first declined in one calendar month: the share recovered within 0, 1, … days.

    `shares` ends at today; empty if nothing was declined.
    """

    coverage: str
    currency: str
    month: Period
    declined: Sum = Sum()
    recovered: Sum = Sum()
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class MoneyMetrics:
    """Per coverage, the current period first; per curve, the current month first."""

    months: tuple[MonthsMoney, ...] = ()
    curves: tuple[Curve, ...] = ()


@dataclass
class _Recovery:
    """What was first declined in one month of one coverage; `by_day` is what was recovered after that many days."""

    declined: Sum = Sum()
    by_day: dict[int, Sum] = field(default_factory=dict)


def current_period(coverage: Coverage, now: datetime) -> Period:
    """The month whose invoices are being collected: the last complete one in the coverage's zone."""
    return Period.of(local_date(now, coverage.zone)).previous


def gather_money_metrics(connection: Connection, policy: Policy, now: datetime) -> MoneyMetrics:
    """Sum the current period and the one before, at business time `now`."""
    coverages = list(policy.coverages.values())
    wanted = [
        (coverage, period)
        for coverage in coverages
        for period in (current_period(coverage, now), current_period(coverage, now).previous)
    ]
    of_state: dict[tuple[str, Period], dict[str, Sum]] = {}
    for row in connection.execute(_BY_STATE, _months(wanted)):
        sums = of_state.setdefault((row.coverage, Period.of(row.period)), {})
        sums[row.state] = Sum(row.payments, int(row.amount_minor))
    recovered, declined_unpaid, recoveries = _declined(connection, coverages, now)
    overdue = _overdue(connection, wanted, policy, now)
    months = tuple(
        _month(
            coverage,
            period,
            of_state.get((coverage.code, period), {}),
            recovered.get((coverage.code, period), Sum()),
            declined_unpaid.get((coverage.code, period), Sum()) + overdue.get((coverage.code, period), Sum()),
        )
        for coverage, period in wanted
    )
    return MoneyMetrics(months, _curves(coverages, recoveries, now))


def _month(
    coverage: Coverage, period: Period, of_state: Mapping[str, Sum], recovered: Sum, at_risk: Sum
) -> MonthsMoney:
    def total(states: Iterable[str]) -> Sum:
        return sum((of_state.get(state, Sum()) for state in states), Sum())

    return MonthsMoney(
        coverage.code,
        coverage.currency,
        period,
        invoiced=total(frozenset(PaymentState) - NOT_COLLECTED),
        collected=total([PaymentState.PAID]),
        outstanding=total(UNPAID),
        written_off=total([PaymentState.UNCOLLECTIBLE]),
        recovered=recovered,
        at_risk=at_risk,
        not_attempted=total([PaymentState.DUE]),
    )


def _declined(
    connection: Connection, coverages: Sequence[Coverage], now: datetime
) -> tuple[dict[tuple[str, Period], Sum], dict[tuple[str, Period], Sum], dict[tuple[str, Period], _Recovery]]:
    """Everything declined since the start of the previous month: recovered, still unpaid, and recovered by day.

    This covers both periods' payments: an invoice is issued after its period, and declined after that.
    """
    recovered: dict[tuple[str, Period], Sum] = {}
    unpaid: dict[tuple[str, Period], Sum] = {}
    recoveries: dict[tuple[str, Period], _Recovery] = {}
    for row in connection.execute(_DECLINED, _since_the_month_before(coverages, now)):
        found, of_period = Sum(row.payments, int(row.amount_minor)), (row.coverage, Period.of(row.period))
        if row.state == PaymentState.PAID:
            recovered[of_period] = recovered.get(of_period, Sum()) + found
        elif row.state in UNPAID:
            unpaid[of_period] = unpaid.get(of_period, Sum()) + found
        if row.state in NOT_COLLECTED:
            continue
        of_month = recoveries.setdefault((row.coverage, Period.of(row.month)), _Recovery())
        of_month.declined += found
        if row.days is not None:
            of_month.by_day[row.days] = of_month.by_day.get(row.days, Sum()) + found
    return recovered, unpaid, recoveries


def _overdue(
    connection: Connection, wanted: Sequence[tuple[Coverage, Period]], policy: Policy, now: datetime
) -> dict[tuple[str, Period], Sum]:
    """What is past due without a decline. Periods whose invoices can't be past due yet are skipped."""
    soonest = min(policy.due_in_days.values(), default=0)
    possible = [
        (coverage, period)
        for coverage, period in wanted
        if (local_date(now, coverage.zone) - period.next.first_day).days > soonest
    ]
    todays = [local_date(now, coverage.zone) for coverage, _ in possible]
    return {
        (row.coverage, Period.of(row.period)): Sum(row.payments, int(row.amount_minor))
        for row in connection.execute(_OVERDUE, {**_months(possible), "todays": todays, "unpaid": sorted(UNPAID)})
    }


def _curves(
    coverages: Sequence[Coverage], recoveries: Mapping[tuple[str, Period], _Recovery], now: datetime
) -> tuple[Curve, ...]:
    curves = []
    for coverage in coverages:
        today = local_date(now, coverage.zone)
        for month in (Period.of(today), Period.of(today).previous):
            found = recoveries.get((coverage.code, month), _Recovery())
            known_days = min((today - month.first_day).days, CURVE_DAYS)
            shares, so_far = [], Sum()
            for day in range(known_days + 1 if found.declined.amount_minor else 0):
                so_far += found.by_day.get(day, Sum())
                shares.append(so_far.amount_minor / found.declined.amount_minor)
            recovered = sum(found.by_day.values(), Sum())
            curves.append(Curve(coverage.code, coverage.currency, month, found.declined, recovered, tuple(shares)))
    return tuple(curves)


def _months(wanted: Sequence[tuple[Coverage, Period]]) -> dict[str, Any]:
    return {
        "coverages": [coverage.code for coverage, _ in wanted],
        "periods": [period.first_day for _, period in wanted],
    }


def _since_the_month_before(coverages: Sequence[Coverage], now: datetime) -> dict[str, Any]:
    firsts = [_first_of_month_before(coverage, now) for coverage in coverages]
    return {
        "coverages": [coverage.code for coverage in coverages],
        "since": [instant(first, time(0), c.zone) for first, c in zip(firsts, coverages, strict=True)],
        "zones": [coverage.time_zone for coverage in coverages],
    }


def _first_of_month_before(coverage: Coverage, now: datetime) -> date:
    return current_period(coverage, now).first_day


def _arrays(**types: Any) -> list[Any]:
    return [bindparam(name, type_=ARRAY(kind)) for name, kind in types.items()]


#: One index-only scan a month: LATERAL, because PostgreSQL reads a list of pairs by way of the table.
_BY_STATE = text("""
    SELECT m.coverage, m.period, s.state, s.payments, s.amount_minor
    FROM unnest(:coverages, :periods) AS m (coverage, period), LATERAL (
        SELECT p.state, count(*) AS payments, sum(p.amount_minor) AS amount_minor
        FROM payments p WHERE p.coverage = m.coverage AND p.period = m.period GROUP BY p.state
    ) s
""").bindparams(*_arrays(coverages=Text, periods=Date))

_DECLINED = text("""
    SELECT m.coverage, d.* FROM unnest(:coverages, :since, :zones) AS m (coverage, since, zone), LATERAL (
        SELECT p.period, p.state,
               CAST(date_trunc('month', p.first_declined_at AT TIME ZONE m.zone) AS date) AS month,
               CASE WHEN p.state = 'paid' THEN greatest(0, CAST(p.paid_at AT TIME ZONE m.zone AS date)
                    - CAST(p.first_declined_at AT TIME ZONE m.zone AS date)) END AS days,
               count(*) AS payments, sum(p.amount_minor) AS amount_minor
        FROM payments p
        WHERE p.coverage = m.coverage AND p.first_declined_at >= m.since AND p.period IS NOT NULL
        GROUP BY 1, 2, 3, 4
    ) d
""").bindparams(*_arrays(coverages=Text, since=DateTime(timezone=True), zones=Text))

_OVERDUE = text("""
    SELECT m.coverage, m.period, count(*) AS payments, sum(p.amount_minor) AS amount_minor
    FROM unnest(:coverages, :periods, :todays) AS m (coverage, period, today)
    JOIN payments p ON p.coverage = m.coverage AND p.period = m.period
    WHERE p.state = ANY(:unpaid) AND p.first_declined_at IS NULL AND p.due_on < m.today
    GROUP BY m.coverage, m.period
""").bindparams(*_arrays(coverages=Text, periods=Date, todays=Date, unpaid=Text))
