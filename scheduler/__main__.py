"""`python -m scheduler`: runs until SIGTERM or SIGINT, then stops within two seconds."""

import logging
import os
import signal
import sys

import structlog

from scheduler.app import SchedulerApp
from shared.clock import SystemClock, VirtualClock, machine_now
from shared.db.session import make_engine
from shared.failpoints import arm
from shared.logs import configure_logs
from shared.messaging.broker import make_broker, make_enqueue, waiting_messages
from shared.operations.heartbeats import SCHEDULER, Heartbeats
from shared.policy import PolicyError, load_policy
from shared.settings import ClockKind, Settings, SettingsError, load_settings

log = structlog.get_logger()

#: Ticks and sweeps are indexed queries of milliseconds; one that hung would block everything else (s).
STATEMENT_LIMIT_S = 30
#: What remains of the two seconds for a stop, after a tick or sweep in progress.
STOP_HEARTBEATS_WITHIN_S = 0.3
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Run one scheduler; return the exit code."""
    try:
        settings = load_settings()
        configure_logs("scheduler", settings.log_level)
        arm(settings.crash_plan)
        app = make_app(settings)
        engine = make_engine(settings, pool_size=1, statement_limit_s=STATEMENT_LIMIT_S)
        heartbeats_sender = Heartbeats(lambda: engine, SCHEDULER)
    except (SettingsError, PolicyError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    # The signals are blocked before any thread starts, and then waited for. So no handler can run during the wait,
    # and a signal that comes too early or twice is neither lost nor harmful.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    app.start(
        settings.tick_interval_s,
        settings.sweep_interval_s,
        listens=settings.clock is ClockKind.VIRTUAL,
    )
    heartbeats_sender.start()
    log.info("scheduler.started", pid=os.getpid())
    signal.sigwait(STOP_SIGNALS)
    heartbeats_sender.stop(within_s=STOP_HEARTBEATS_WITHIN_S)
    if app.stop():
        log.info("scheduler.stopped")
        return 0
    log.warning(
        "scheduler.stopped_in_the_middle", consequence="its transaction rolls back; the next tick repeats it"
    )
    logging.shutdown()
    os._exit(0)  # a thread waiting for an unreachable server would keep the process until its timeout


def make_app(settings: Settings) -> SchedulerApp:
    """Build the scheduler from the environment. PolicyError if billing.toml is invalid."""
    policy = load_policy(settings.billing_file)
    engine = make_engine(settings, pool_size=2, statement_limit_s=STATEMENT_LIMIT_S)
    broker = make_broker(settings.redis_url.get_secret_value())
    return SchedulerApp(
        database_url=settings.database_url.get_secret_value(),
        engine=engine,
        policy=policy,
        clock=VirtualClock(engine) if settings.clock is ClockKind.VIRTUAL else SystemClock(),
        machine_now=machine_now,
        enqueue=make_enqueue(broker),
        waiting_in=lambda queue: waiting_messages(broker, queue),
    )


if __name__ == "__main__":
    sys.exit(main())
