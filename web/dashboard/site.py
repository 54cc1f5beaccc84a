"""What all pages share: the runtime, the templates and the caches. Built once."""

from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from dramatiq.brokers.redis import RedisBroker
from jinja2 import Environment
from sqlalchemy import Engine

from shared.policy import Policy
from shared.runtime import Runtime
from web.dashboard.cache import CachedValue, PlotCache
from web.dashboard.queries.overview import Overview


@dataclass(frozen=True)
class Site:
    """What pages need from the process; tests pass their own clocks through the runtime."""

    runtime: Runtime
    #: A pool of its own: slow pages never delay Stripe's webhooks.
    engine: Engine
    templates: Environment
    is_test_mode: bool  # no live key: links to the processor's dashboard go to its test side
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    #: The header in which a trusted proxy sends the user name; None: no header is trusted.
    user_header: str | None = None
    #: For queue depths and dead letters; None in tests that need no Redis.
    broker: RedisBroker | None = None
    #: The overview's metrics, at most a few seconds old, and its drawn plots.
    overview: CachedValue[Overview] = field(default_factory=CachedValue)
    plots: PlotCache = field(default_factory=PlotCache)

    @property
    def policy(self) -> Policy:
        return self.runtime.policy

    def now(self) -> datetime:
        """Business time."""
        return self.runtime.clock.now()

    def machine_now(self) -> datetime:
        return self.runtime.machine_now()
