"""The company's own rules, from one validated file (`billing.toml`).

Every key but `slower` has to be given, so that a reader of the file sees everything that is in force. Each key says
in its `description` what is allowed: the text that a refusal shows (`shared/policy_problems.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import time, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.domain.charge_limits import MAXIMUM_CHARGE_MINOR, minimum_charge_minor
from shared.domain.declines import DeclineCategory
from shared.domain.dunning import DunningPolicy
from shared.domain.money import EXPONENTS, MoneyError, format_minor, parse_minor
from shared.domain.states import SettingsKind
from shared.policy_problems import NotReadableError, problems_of, read_toml, refusal


class PolicyError(Exception):
    """billing.toml is invalid; the message names each key, its value and what is allowed."""


@dataclass(frozen=True)
class Coverage:
    """A billing world: its own currency, time zone, invoice numbers, Stripe account and cards."""

    code: str
    currency: str
    time_zone: str
    invoice_prefix: str
    minimum_charge_minor: int

    @cached_property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


@dataclass(frozen=True)
class Policy:
    """The content of billing.toml."""

    coverages: Mapping[str, Coverage]
    dunning: DunningPolicy
    due_in_days: Mapping[SettingsKind, int]
    catch_up_within: timedelta
    #: Wall-clock time in the coverage's zone at which the nightly reconciliation starts.
    reconcile_at: time

    def coverage(self, code: str) -> Coverage:
        """Return a coverage; PolicyError lists the existing ones."""
        try:
            return self.coverages[code]
        except KeyError:
            known = ", ".join(sorted(self.coverages))
            raise PolicyError(f"there is no coverage {code!r}; billing.toml has: {known}") from None


def _whole(lowest: int, highest: int, of: str) -> Any:
    return Field(ge=lowest, le=highest, description=f"a whole number of {of} from {lowest} to {highest}")


def _days(lowest: int) -> Any:
    return _whole(lowest, 365, "days")


def _known_zone(name: str) -> str:
    if name not in _time_zones():
        raise ValueError
    return name


@cache
def _time_zones() -> frozenset[str]:
    """Names of the IANA database; without `localtime`, which is another zone on each machine."""
    return frozenset(available_timezones() - {"localtime", "Factory"})


def _known_currency(code: str) -> str:
    if code not in EXPONENTS:
        raise ValueError
    return code


_TimeOfDay = Annotated[
    str,
    Field(
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
        description='a time of day in quotes, "00:00" to "23:59", in the coverage\'s time zone',
    ),
]


class _Table(BaseModel):
    """A table of the file: every key is required, none is unknown, and no value is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _DueInDays(_Table):
    card: int = _days(0)
    bank_transfer: int = _days(0)


class _Invoices(_Table):
    due_in_days: _DueInDays
    catch_up_within_days: int = _whole(0, 31, "days")


class _RetryEveryDays(_Table):
    retry_soon: int = _days(1)
    retry_daily: int = _days(1)
    retry_sparingly: int = _days(1)


class _Slower(_Table):
    after_declines: int = _whole(1, 365, "declines")
    every_days: int = _days(1)


#: The one table that may be left out: then retries never become slower.
_NEVER_SLOWER = _Slower(after_declines=365, every_days=1)


class _Dunning(_Table):
    retry_at: _TimeOfDay
    retry_every_days: _RetryEveryDays
    slower: _Slower = _NEVER_SLOWER
    mark_after_declines: int = _whole(1, 365, "declines")
    mark_after_days_past_due: int = _days(1)
    stop_after_declines: int = _whole(1, 365, "declines")


class _Reconciliation(_Table):
    at: _TimeOfDay


class _Coverage(_Table):
    currency: Annotated[
        str,
        AfterValidator(_known_currency),
        Field(description=f"one of the supported currencies: {', '.join(sorted(EXPONENTS))}"),
    ]
    time_zone: Annotated[
        str,
        AfterValidator(_known_zone),
        Field(description='a time zone of the IANA database such as "Asia/Tokyo", or "UTC"'),
    ]
    invoice_prefix: Annotated[
        str,
        Field(pattern=r"^[A-Z0-9]{1,8}$", description="1 to 8 capital letters A to Z and digits, in quotes"),
    ]
    minimum_charge: Annotated[
        str,
        Field(
            pattern=r"^[0-9]{1,8}(\.[0-9]{1,3})?$",
            description='an amount of the coverage\'s currency in quotes, such as "0.50"',
        ),
    ]


class _File(_Table):
    invoices: _Invoices
    dunning: _Dunning
    reconciliation: _Reconciliation
    coverages: dict[
        Annotated[
            str,
            Field(
                pattern=r"^[a-z][a-z0-9_]{0,31}$",
                description="a name of 1 to 32 small letters a to z, digits and _, which begins with a letter",
            ),
        ],
        _Coverage,
    ] = Field(min_length=1, description="at least one table such as [coverages.global]")


def load_policy(path: Path) -> Policy:
    """Read and validate billing.toml; PolicyError if it is missing, can't be read, or has an invalid key."""
    try:
        raw = read_toml(path, _File)
    except FileNotFoundError:
        raise PolicyError(f"{path} does not exist; set DUECOURSE_BILLING_FILE or start in its folder") from None
    except NotReadableError as error:
        raise PolicyError(str(error)) from None
    return parse_policy(raw, str(path))


def parse_policy(raw: Mapping[str, Any], source: str) -> Policy:
    """Validate a billing file; PolicyError names each invalid key, its value and what is allowed."""
    try:
        file = _File.model_validate(raw)
        problems = list(_contradictions(file))
    except ValidationError as error:
        problems = problems_of(error, _File)
    if problems:
        raise PolicyError("\n".join([f"{source} can't be used:", *(f"  {problem}" for problem in problems)]))
    every = file.dunning.retry_every_days
    return Policy(
        coverages={code: _coverage(code, table) for code, table in file.coverages.items()},
        dunning=DunningPolicy(
            retry_at=time.fromisoformat(file.dunning.retry_at),
            retry_every_days={
                DeclineCategory.RETRY_SOON: every.retry_soon,
                DeclineCategory.RETRY_DAILY: every.retry_daily,
                DeclineCategory.RETRY_SPARINGLY: every.retry_sparingly,
            },
            slower_after_declines=file.dunning.slower.after_declines,
            slower_every_days=file.dunning.slower.every_days,
            mark_after_declines=file.dunning.mark_after_declines,
            mark_after_days_past_due=file.dunning.mark_after_days_past_due,
            stop_after_declines=file.dunning.stop_after_declines,
        ),
        due_in_days={
            SettingsKind.CARD: file.invoices.due_in_days.card,
            SettingsKind.BANK_TRANSFER: file.invoices.due_in_days.bank_transfer,
        },
        catch_up_within=timedelta(days=file.invoices.catch_up_within_days),
        reconcile_at=time.fromisoformat(file.reconciliation.at),
    )


def _coverage(code: str, table: _Coverage) -> Coverage:
    minimum = parse_minor(table.minimum_charge, table.currency)
    return Coverage(code, table.currency, table.time_zone, table.invoice_prefix, minimum)


def _contradictions(file: _File) -> Iterator[str]:
    """Values that are allowed alone, but not together."""
    mark, stop = file.dunning.mark_after_declines, file.dunning.stop_after_declines
    if mark > stop:
        allowed = f"at most stop_after_declines, which is {stop}: after it nothing is declined any more"
        yield refusal("dunning.mark_after_declines", mark, allowed)
    owners: dict[str, str] = {}
    for code, table in file.coverages.items():
        yield from _minimum_problem(code, table)
        owner = owners.setdefault(table.invoice_prefix, code)
        if owner != code:
            allowed = f"another prefix than that of coverages.{owner}: invoice numbers would collide"
            yield refusal(f"coverages.{code}.invoice_prefix", table.invoice_prefix, allowed)


def _minimum_problem(code: str, table: _Coverage) -> Iterator[str]:
    currency, lowest = table.currency, minimum_charge_minor(table.currency)
    try:
        is_within = lowest <= parse_minor(table.minimum_charge, currency) <= MAXIMUM_CHARGE_MINOR
    except MoneyError:
        is_within = False
    if not is_within:
        digits = EXPONENTS[currency]
        decimals = "no decimals" if digits == 0 else f"at most {digits} decimals"
        between = f"{format_minor(lowest, currency)} to {format_minor(MAXIMUM_CHARGE_MINOR, currency)}"
        allowed = f"{between} with {decimals}: Stripe charges no other amounts"
        yield refusal(f"coverages.{code}.minimum_charge", table.minimum_charge, allowed)
