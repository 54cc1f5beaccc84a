"""What each process needs: settings, policy, engine, clocks, gateways, doorbell. Built once, then passed on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from dramatiq.brokers.redis import RedisBroker
from sqlalchemy import Engine

from shared.clock import BusinessClock, SystemClock, VirtualClock, machine_now
from shared.db.session import make_engine
from shared.gateway.port import ProcessorGateway
from shared.messaging.broker import Enqueue, make_broker, make_enqueue
from shared.operations.stripe_accounts import why_not_this_account
from shared.policy import Policy, load_policy
from shared.settings import ClockKind, Settings


@dataclass(frozen=True)
class Runtime:
    """Everything that use cases need, as arguments: tests pass their own clocks instead of patching ours."""

    policy: Policy
    engine: Engine
    clock: BusinessClock
    machine_now: Callable[[], datetime]
    gateways: Mapping[str, ProcessorGateway]
    enqueue: Enqueue
    lease: timedelta


def build_runtime(
    settings: Settings,
    *,
    broker: RedisBroker | None = None,
    pool_size: int = 10,
    statement_limit_s: int | None = None,
) -> Runtime:
    """Build a process's runtime (`statement_limit_s`: see `make_engine`). Opens no connection yet."""
    from shared.gateway.stripe_gateway import make_gateways  # the SDK is slow to import

    engine = make_engine(settings, pool_size=pool_size, statement_limit_s=statement_limit_s)
    clock: BusinessClock = SystemClock()
    if settings.clock is ClockKind.VIRTUAL:
        clock = VirtualClock(make_engine(settings, pool_size=2))
    return Runtime(
        policy=load_policy(settings.billing_file),
        engine=engine,
        clock=clock,
        machine_now=machine_now,
        gateways=make_gateways(
            settings,
            lambda coverage, account_id: why_not_this_account(engine, coverage, account_id, machine_now()),
        ),
        enqueue=make_enqueue(broker or make_broker(settings.redis_url.get_secret_value())),
        lease=settings.lease,
    )
