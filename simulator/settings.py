"""The simulator's settings from the environment; the command line overrides them."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from simulator.api.call import CONFIRMATION_LIMIT
from simulator.api.rate_limit import rate_per_second
from simulator.webhooks.events import EVENT_TYPES, Webhook


class SettingsError(ValueError):
    """An invalid setting; the message names the variable."""


@dataclass(frozen=True)
class Settings:
    """`accounts`: the account names that keys may carry; None for any.

    `rate_limit_per_s`: requests per second and account above which the answer is 429; None for no limit.
    """

    host: str = "127.0.0.1"
    port: int = 0
    data: Path = Path(".duecourse/simulator")
    webhooks: tuple[Webhook, ...] = field(default=())
    accounts: frozenset[str] | None = None
    confirmation_limit: int = CONFIRMATION_LIMIT
    rate_limit_per_s: float | None = None
    clock: str = "system"
    database_url: str | None = None


def settings_from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read SIMULATOR_*, DUECOURSE_CLOCK and DATABASE_URL; Raises SettingsError."""
    accounts = environment.get("SIMULATOR_ACCOUNTS")
    return Settings(
        host=environment.get("SIMULATOR_HOST", "127.0.0.1"),
        port=_integer(environment, "SIMULATOR_PORT", 0),
        data=Path(environment.get("SIMULATOR_DATA", ".duecourse/simulator")),
        webhooks=_webhooks(environment.get("SIMULATOR_WEBHOOKS", "")),
        accounts=frozenset(accounts.split(",")) if accounts else None,
        confirmation_limit=_integer(environment, "SIMULATOR_CONFIRMATION_LIMIT", CONFIRMATION_LIMIT),
        rate_limit_per_s=_rate(environment, "SIMULATOR_RATE_LIMIT"),
        clock=environment.get("DUECOURSE_CLOCK", "system"),
        database_url=environment.get("DATABASE_URL"),
    )


def _integer(environment: Mapping[str, str], name: str, default: int) -> int:
    given = environment.get(name)
    try:
        return int(given) if given else default
    except ValueError:
        raise SettingsError(f"{name}={given!r} is not a whole number") from None


def _rate(environment: Mapping[str, str], name: str) -> float | None:
    given = environment.get(name)
    try:
        return rate_per_second(float(given)) if given else None
    except ValueError:
        raise SettingsError(f"{name}={given!r} is not a number of requests per second above 0") from None


def _webhooks(given: str) -> tuple[Webhook, ...]:
    if not given.strip():
        return ()
    try:
        found = tuple(
            Webhook(
                account=each["account"],
                url=each["url"],
                secret=each["secret"],
                enabled_events=tuple(each.get("enabled_events", ("*",))),
            )
            for each in json.loads(given)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"SIMULATOR_WEBHOOKS must be a JSON list of objects with account, url and secret ({error!r})"
        ) from None
    for webhook in found:
        if unknown := set(webhook.enabled_events) - EVENT_TYPES.keys() - {"*"}:
            raise SettingsError(f"SIMULATOR_WEBHOOKS: the simulator sends no {', '.join(sorted(unknown))}")
    return found
