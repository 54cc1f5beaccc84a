"""What all pages share: the runtime, the templates and the policy. Built once."""

from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from dramatiq.brokers.redis import RedisBroker
from jinja2 import Environment
from sqlalchemy import Engine

from shared.policy import Policy
from shared.runtime import Runtime
from web.dashboard.cache import CachedValue, Drawn
from web.dashboard.queries.overview import Overview


@dataclass(frozen=True)
class Site:
    """What pages need of the process; tests pass their own clocks through the runtime."""

    runtime: Runtime
    #: A pool of its own: pages that wait never keep Stripe's webhooks waiting.
    engine: Engine
    templates: Environment
    is_test_mode: bool  # no live key: links to the processor's dashboard go to its test side
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    #: Name of the header in which a trusted proxy names the person; None: nobody is believed.
    user_header: str | None = None
    #: Depths of queues and dead letters are read from the doorbell itself; None where a test needs none.
    broker: RedisBroker | None = None
    #: The overview's figures, a few seconds old at most, and its plots as they were drawn last.
    overview: CachedValue[Overview] = field(default_factory=CachedValue)
    drawn: Drawn = field(default_factory=Drawn)

    @property
    def policy(self) -> Policy:
        return self.runtime.policy

    def now(self) -> datetime:
        """Business time."""
        return self.runtime.clock.now()

    def machine_now(self) -> datetime:
        return self.runtime.machine_now()
