"""The company's own rules, from one validated file (`billing.toml`)."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shared.domain.declines import DeclineCategory
from shared.domain.dunning import DunningPolicy
from shared.domain.money import exponent, parse_minor
from shared.domain.states import SettingsKind


class PolicyError(Exception):
    """billing.toml is invalid; the message names the key and says what is wrong with it."""


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


_PositiveDays = Annotated[int, Field(ge=1, le=365)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _DueInDays(_Strict):
    card: Annotated[int, Field(ge=0, le=365)] = 0
    bank_transfer: Annotated[int, Field(ge=0, le=365)] = 30


class _Invoices(_Strict):
    due_in_days: _DueInDays = _DueInDays()
    catch_up_within_days: Annotated[int, Field(ge=0, le=31)] = 7


class _RetryEveryDays(_Strict):
    retry_soon: _PositiveDays = 1
    retry_daily: _PositiveDays = 1
    retry_sparingly: _PositiveDays = 3


class _Dunning(_Strict):
    retry_at: time = time(9, 0)
    retry_every_days: _RetryEveryDays = _RetryEveryDays()
    mark_after_declines: Annotated[int, Field(ge=1)] = 7
    mark_after_days_past_due: _PositiveDays = 14
    stop_after_declines: Annotated[int, Field(ge=1)] = 30


class _Reconciliation(_Strict):
    at: time = time(4, 0)


class _Coverage(_Strict):
    currency: str
    time_zone: str
    invoice_prefix: Annotated[str, Field(pattern=r"^[A-Z0-9]{1,8}$")]
    minimum_charge: str

    @field_validator("currency")
    @classmethod
    def _known_currency(cls, value: str) -> str:
        exponent(value)
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError):
            raise ValueError(f"{value!r} is not a time zone like Asia/Tokyo") from None
        return value


class _File(_Strict):
    invoices: _Invoices = _Invoices()
    dunning: _Dunning = _Dunning()
    reconciliation: _Reconciliation = _Reconciliation()
    coverages: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")], _Coverage] = Field(min_length=1)


def load_policy(path: Path) -> Policy:
    """Read and validate billing.toml; PolicyError if it is missing, not TOML, or has an invalid key."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise PolicyError(f"{path} does not exist; set DUECOURSE_BILLING_FILE or start in its folder") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path} is not valid TOML: {error}") from None
    return parse_policy(raw, str(path))


def parse_policy(raw: Mapping[str, Any], source: str) -> Policy:
    """Validate a billing file; PolicyError names each invalid key."""
    try:
        file = _File.model_validate(raw)
        coverages = {code: _coverage(code, said) for code, said in file.coverages.items()}
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise PolicyError(f"{source} needs attention:\n" + "\n".join(lines)) from None
    prefixes = [coverage.invoice_prefix for coverage in coverages.values()]
    if len(set(prefixes)) < len(prefixes):
        raise PolicyError(f"{source}: two coverages share an invoice_prefix; invoice numbers would collide")
    every = file.dunning.retry_every_days
    return Policy(
        coverages=coverages,
        dunning=DunningPolicy(
            retry_at=file.dunning.retry_at,
            retry_every_days={
                DeclineCategory.RETRY_SOON: every.retry_soon,
                DeclineCategory.RETRY_DAILY: every.retry_daily,
                DeclineCategory.RETRY_SPARINGLY: every.retry_sparingly,
            },
            mark_after_declines=file.dunning.mark_after_declines,
            mark_after_days_past_due=file.dunning.mark_after_days_past_due,
            stop_after_declines=file.dunning.stop_after_declines,
        ),
        due_in_days={
            SettingsKind.CARD: file.invoices.due_in_days.card,
            SettingsKind.BANK_TRANSFER: file.invoices.due_in_days.bank_transfer,
        },
        catch_up_within=timedelta(days=file.invoices.catch_up_within_days),
        reconcile_at=file.reconciliation.at,
    )


def _coverage(code: str, said: _Coverage) -> Coverage:
    try:
        minimum = parse_minor(said.minimum_charge, said.currency)
    except ValueError as error:
        raise PolicyError(f"coverages.{code}.minimum_charge {said.minimum_charge!r} {error}") from None
    return Coverage(code, said.currency, said.time_zone, said.invoice_prefix, minimum)
