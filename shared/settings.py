"""Settings from the environment. A wrong or missing setting stops the start, with the variable's name."""

from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Self

import pydantic_settings
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.failpoints import CrashPlan, read_plan

#: The only base address to which a live key is sent.
STRIPES_HOST = "https://api.stripe.com"


#: What `duecourse env` exported into a shell: the names, so that a later `up` there can say what to unset.
ENV_NAMES = "DUECOURSE_ENV_NAMES"


class ClockKind(StrEnum):
    """Where business time comes from."""

    SYSTEM = "system"
    VIRTUAL = "virtual"


class SettingsError(Exception):
    """The environment's settings are invalid; the message names the variables and says what to do."""


def check_database_url(url: str) -> None:
    """ValueError unless psql also accepts this URL: `duecourse env` prints it for psql."""
    scheme = url.partition("://")[0]
    if scheme not in ("postgresql", "postgres"):
        driver = ", without +" + scheme.partition("+")[2] if "+" in scheme else ""
        raise ValueError(f"must look like postgresql://user:password@host:5432/name{driver}")


def with_driver(database_url: str) -> str:
    """Add our driver, psycopg 3, to a database URL without one, as SQLAlchemy requires."""
    return f"postgresql+psycopg://{database_url.partition('://')[2]}"


class Settings(BaseSettings):
    """All settings of all processes. Secrets are never printed.

    Stripe keys and webhook secrets are JSON objects by coverage, so that adding a coverage adds no variable:
    `STRIPE_API_KEYS={"global": "sk_..."}` and `STRIPE_WEBHOOK_SECRETS={"global": ["whsec_new", "whsec_old"]}`.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: SecretStr = Field(validation_alias="DATABASE_URL")
    redis_url: SecretStr = Field(validation_alias="REDIS_URL")
    billing_file: Path = Field(Path("billing.toml"), validation_alias="DUECOURSE_BILLING_FILE")
    clock: ClockKind = Field(ClockKind.SYSTEM, validation_alias="DUECOURSE_CLOCK")
    log_level: str = Field("INFO", validation_alias="DUECOURSE_LOG_LEVEL")

    stripe_api_keys: dict[str, SecretStr] = Field(default_factory=dict, validation_alias="STRIPE_API_KEYS")
    stripe_webhook_secrets: dict[str, list[SecretStr]] = Field(
        default_factory=dict, validation_alias="STRIPE_WEBHOOK_SECRETS"
    )
    stripe_api_base: str | None = Field(None, validation_alias="STRIPE_API_BASE")
    #: Requests per second that one process may send; Stripe allows 100 live and 25 in test mode per account.
    stripe_requests_per_s: float = Field(20.0, gt=0, validation_alias="STRIPE_REQUESTS_PER_S")
    stripe_connect_timeout_s: float = Field(5.0, gt=0, validation_alias="STRIPE_CONNECT_TIMEOUT_S")
    #: Per socket read; the longest answer that Stripe is known to give takes under 30 s.
    stripe_read_timeout_s: float = Field(30.0, gt=0, validation_alias="STRIPE_READ_TIMEOUT_S")

    #: Above the workers' time limit of 90 s, so that no attempt is settled while its worker still runs.
    lease_s: float = Field(300.0, gt=0, validation_alias="DUECOURSE_LEASE_S")
    tick_interval_s: float = Field(1.0, gt=0, validation_alias="DUECOURSE_TICK_INTERVAL_S")
    sweep_interval_s: float = Field(2.0, gt=0, validation_alias="DUECOURSE_SWEEP_INTERVAL_S")
    web_host: str = Field("127.0.0.1", validation_alias="DUECOURSE_WEB_HOST")
    web_port: Annotated[int, Field(ge=1, le=65535)] = Field(8400, validation_alias="PORT")

    #: Networks (like 10.0.0.7/32) whose forwarded scheme and address are trusted: a company's own reverse proxies.
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        (), validation_alias="DUECOURSE_TRUSTED_PROXIES"
    )
    #: The header in which such a proxy names the signed-in user (like X-Forwarded-User). Off if unset.
    user_header: str | None = Field(None, validation_alias="DUECOURSE_USER_HEADER")

    #: Drills only: where and with which probability this process kills itself (shared/failpoints.py). Never with a
    #: live key.
    crash_at: str | None = Field(None, validation_alias="DUECOURSE_CRASH_AT")
    crash_probability: float | None = Field(None, ge=0, le=1, validation_alias="DUECOURSE_CRASH_PROBABILITY")

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr) -> SecretStr:
        check_database_url(value.get_secret_value())
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("must look like redis://:password@host:6379/0")
        return value

    @model_validator(mode="after")
    def _never_bend_time_with_real_money(self) -> Self:
        if self.clock is ClockKind.VIRTUAL and self.has_live_key:
            raise ValueError(
                "DUECOURSE_CLOCK=virtual is refused with a live Stripe key: real cards need real time. "
                "Unset DUECOURSE_CLOCK or use test keys in STRIPE_API_KEYS."
            )
        return self

    @model_validator(mode="after")
    def _send_live_keys_only_to_stripe(self) -> Self:
        if self.has_live_key and self.stripe_api_base and self.stripe_api_base.rstrip("/") != STRIPES_HOST:
            raise ValueError(
                "a live Stripe key would be sent to another host than Stripe's: unset STRIPE_API_BASE, or use test "
                "keys in STRIPE_API_KEYS."
            )
        return self

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _believe_only_named_proxies(self) -> Self:
        if self.user_header is not None and not self.trusted_proxies:
            raise ValueError(
                "DUECOURSE_USER_HEADER needs DUECOURSE_TRUSTED_PROXIES: without it anybody could send that header "
                "and sign in as any user. Name your proxies, like 10.0.0.7/32."
            )
        return self

    @field_validator("crash_at")
    @classmethod
    def _names_failpoints(cls, value: str | None) -> str | None:
        read_plan(value, None)
        return value

    @model_validator(mode="after")
    def _never_crash_with_real_money(self) -> Self:
        if self.crash_plan is not None and self.has_live_key:
            raise ValueError(
                "DUECOURSE_CRASH_AT and DUECOURSE_CRASH_PROBABILITY are refused with a live Stripe key: a drill "
                "kills processes in the middle of charges. Unset them or use test keys in STRIPE_API_KEYS."
            )
        return self

    @model_validator(mode="after")
    def _lease_outlives_the_request(self) -> Self:
        longest = 2 * (self.stripe_connect_timeout_s + self.stripe_read_timeout_s)
        if self.lease_s <= longest:
            raise ValueError(
                f"DUECOURSE_LEASE_S={self.lease_s:g} must be above {longest:g} s: two requests to Stripe "
                "(STRIPE_CONNECT_TIMEOUT_S + STRIPE_READ_TIMEOUT_S, twice) have to fit into one lease."
            )
        return self

    @cached_property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_s)

    @property
    def crash_plan(self) -> CrashPlan | None:
        """The failpoints to arm at this process's start; None outside of drills."""
        return read_plan(self.crash_at, self.crash_probability)

    @property
    def has_live_key(self) -> bool:
        """Whether any Stripe key moves real money (`sk_live_…`, `rk_live_…`)."""
        return any("_live_" in key.get_secret_value() for key in self.stripe_api_keys.values())

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL with our driver, psycopg 3."""
        return with_driver(self.database_url.get_secret_value())


def load_settings() -> Settings:
    """Read the environment; SettingsError lists every variable that is missing or wrong."""
    try:
        return Settings()  # type: ignore[call-arg]  # the fields come from the environment
    except pydantic_settings.SettingsError as error:  # a variable that isn't valid JSON
        raise SettingsError(
            f"{error}. STRIPE_API_KEYS and STRIPE_WEBHOOK_SECRETS are JSON objects by coverage, like "
            '{"global": "sk_test_..."}.'
        ) from None
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            what = "is not set" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ")
            lines.append(f"  {name}: {what}" if name else f"  {what}")
        raise SettingsError(
            "These settings need attention (`duecourse doctor` explains each):\n" + "\n".join(lines)
        ) from None
