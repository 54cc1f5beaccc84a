"""The demo's customers: accounts, fees, and how their cards answer. The same seed makes the same customers.

The mix is invented: within two months it shows each way a payment can go. The decline codes are the common ones of
`shared/domain/declines.json`. It is no statistic of any company.
"""

import csv
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from shared.domain.calendar import Period
from shared.domain.money import EXPONENTS
from shared.domain.states import SettingsKind
from simulator.issuer.stories import (
    AlwaysDeclines,
    DeclinesThenPays,
    InsufficientFundsUntil,
    NeedsAuthentication,
    Pays,
    PaysUntil,
    Story,
)

FIRST, SECOND = Period(2026, 10), Period(2026, 11)
LAST_DAY = date(2026, 12, 31)
CURRENCY = {"global": "USD", "japan": "JPY"}
BRANDS = {"global": ("visa", "visa", "visa", "mastercard", "amex"), "japan": ("visa", "jcb", "jcb", "mastercard")}


@dataclass(frozen=True)
class Customer:
    """One account: how it pays, how its card answers, and when it registers another card."""

    external_id: str
    coverage: str
    kind: SettingsKind
    story: Story | None  # None: no card
    brand: str
    registers_on: date | None = None
    services: tuple[tuple[str, str, int], ...] = ()  # description, pricing, price in minor units
    fees: tuple[tuple[Period, int], ...] = field(default=())


#: Weight, story of the card, and the day on which the customer registers another card.
def _stories(chance: random.Random, month: Period) -> tuple[tuple[int, Story | None, date | None], ...]:
    first = month.next.first_day
    soon = first + timedelta(days=chance.randint(2, 9))
    later = first + timedelta(days=chance.randint(3, 20))
    return (
        (880, Pays(), None),
        (36, InsufficientFundsUntil(date=first + timedelta(days=chance.randint(1, 6))), None),
        (16, DeclinesThenPays(times=chance.randint(1, 3), decline_code="card_velocity_exceeded"), None),
        (15, DeclinesThenPays(times=chance.randint(1, 2), decline_code="do_not_honor"), None),
        (10, DeclinesThenPays(times=1, decline_code="processing_error"), None),
        (3, AlwaysDeclines(decline_code="insufficient_funds"), None),
        (13, AlwaysDeclines(decline_code="expired_card"), soon),
        (4, AlwaysDeclines(decline_code="expired_card"), None),
        (5, AlwaysDeclines(decline_code="lost_card"), soon),
        (5, NeedsAuthentication(), later),
        (4, PaysUntil(date=SECOND.next.first_day, decline_code="generic_decline"), None),
        (6, None, later),
        (4, None, None),
    )


def make_customers(count: int, seed: int) -> list[Customer]:
    """Make `count` accounts, three in five of them in `global`."""
    chance = random.Random(seed)  # noqa: S311  # demo data, not a secret
    return [_customer(chance, number) for number in range(1, count + 1)]


def _customer(chance: random.Random, number: int) -> Customer:
    coverage = "global" if chance.random() < 0.6 else "japan"
    kind = chance.choices((SettingsKind.CARD, SettingsKind.BANK_TRANSFER, SettingsKind.TRIAL), weights=(94, 5, 1))[
        0
    ]
    choices = _stories(chance, chance.choice((FIRST, FIRST, SECOND)))
    _, story, registers_on = chance.choices(choices, weights=[weight for weight, *_ in choices])[0]
    if kind is not SettingsKind.CARD:
        story, registers_on = None, None
    unit = 100 if coverage == "japan" else 1  # yen have no minor unit: prices are rounder
    services: list[tuple[str, str, int]] = [("Fibre line", "monthly", chance.randrange(15, 95) * unit)]
    if coverage == "global":
        services = [("Fibre line", "monthly", chance.randrange(15_00, 95_00, 50))]
    if chance.random() < 0.3:
        services.append(("Virtual server", "daily", chance.randrange(10, 90) * (1 if coverage == "global" else 2)))
    fees = tuple(
        (period, chance.randrange(1_00, 30_00) if coverage == "global" else chance.randrange(100, 4_000))
        for period in (FIRST, SECOND)
        if chance.random() < 0.5
    )
    if chance.random() < 0.02:  # below the minimum charge: waits for the next month's fees
        services, fees = [], ((FIRST, 30), (SECOND, 45)) if coverage == "global" else ((FIRST, 20), (SECOND, 40))
    brand = chance.choice(BRANDS[coverage])
    return Customer(f"demo-{number:06d}", coverage, kind, story, brand, registers_on, tuple(services), fees)


def write_files(people: Iterable[Customer], folder: Path) -> dict[str, Path]:
    """Write the CSV files that a company would import: accounts, services, fees of both months."""
    folder.mkdir(parents=True, exist_ok=True)
    people = list(people)
    _write(
        folder / "accounts.csv",
        ("account", "name", "email", "coverage", "payment_method"),
        (
            (
                p.external_id,
                f"Demo customer {p.external_id[5:]}",
                f"{p.external_id}@example.com",
                p.coverage,
                p.kind,
            )
            for p in people
        ),
    )
    _write(
        folder / "services.csv",
        ("id", "account", "coverage", "description", "price", "pricing", "starts_on"),
        (
            (
                f"{p.external_id}-s{n}",
                p.external_id,
                p.coverage,
                what,
                _decimal(price, p.coverage),
                pricing,
                "2026-01-01",
            )
            for p in people
            for n, (what, pricing, price) in enumerate(p.services, 1)
        ),
    )
    for period in (FIRST, SECOND):
        _write(
            folder / f"fees-{period}.csv",
            ("id", "account", "coverage", "description", "amount"),
            (
                (f"{p.external_id}-{period}", p.external_id, p.coverage, "Usage", _decimal(amount, p.coverage))
                for p in people
                for month, amount in p.fees
                if month == period
            ),
        )
    names = ("accounts", "services", f"fees-{FIRST}", f"fees-{SECOND}")
    return {name: folder / f"{name}.csv" for name in names}


def _decimal(amount_minor: int, coverage: str) -> str:
    digits = EXPONENTS[CURRENCY[coverage]]
    whole, part = divmod(amount_minor, 10**digits)
    return f"{whole}.{part:0{digits}d}" if digits else str(whole)


def _write(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
