"""The scheduler as one object: it leads or waits, ticks and sweeps, and survives every outage.

APScheduler only supplies the two intervals. Its misfires, cron triggers and stores decide nothing: the schedule,
the business clock and the rows determine what is due (`shared/domain/schedule.py`).
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from scheduler.leadership import Leadership, connect
from scheduler.sweep import Sweep
from scheduler.tick import tick
from shared.clock import BusinessClock
from shared.db.query_terms import Moment
from shared.db.session import in_transaction
from shared.failpoints import Failpoint, reach
from shared.messaging.broker import Enqueue
from shared.payments.outages import end_backoffs
from shared.policy import Policy
from shared.scheduling.leader_lock import CLOCK_CHANNEL

log = structlog.get_logger()

#: How long a stop waits for a tick or sweep in progress; they are transactions, so cutting one short is safe.
STOP_WITHIN_S = 1.5
#: How long the listener blocks at a time, so that it notices a stop soon (s).
LISTEN_FOR_S = 0.5
#: How soon a clock that was set back is noticed (s).
WATCH_CLOCK_EVERY_S = 1.0


class _NotReadyError(Exception):
    """The virtual clock was never set."""


class SchedulerApp:
    """One scheduler. Any thread may call `tick` and `sweep` at any time; they take turns and never raise."""

    def __init__(
        self,
        *,
        database_url: str,
        engine: Engine,
        policy: Policy,
        clock: BusinessClock,
        machine_now: Callable[[], datetime],
        enqueue: Enqueue,
        waiting_in: Callable[[str], int],
    ) -> None:
        self._database_url = database_url
        self._engine = engine
        self._policy = policy
        self._clock = clock
        self._machine_now = machine_now
        self._leadership = Leadership(database_url)
        self._sweep = Sweep(engine, enqueue, waiting_in)
        self._turn = threading.Lock()
        self._stopping = threading.Event()
        self._intervals: BackgroundScheduler | None = None
        self._last_error: str | None = None

    def tick(self) -> None:
        """If this scheduler leads: insert the due runs and enqueue their jobs."""
        self._in_turn(lambda: self._tick(self._business_now()))

    def sweep(self) -> None:
        """If this scheduler leads: tick and sweep at the same business instant.

        The tick comes first, because a daily run stamps payments that the sweep would otherwise enqueue.
        """
        self._in_turn(self._tick_and_sweep)

    def start(self, tick_interval_s: float, sweep_interval_s: float, *, listens: bool = False) -> None:
        """Start in the background; with `listens`, moves of the virtual clock are handled at once."""
        self._intervals = BackgroundScheduler(
            timezone=UTC,
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
        )
        first_at = self._machine_now()
        self._intervals.add_job(self.tick, "interval", seconds=tick_interval_s, next_run_time=first_at)
        self._intervals.add_job(self.sweep, "interval", seconds=sweep_interval_s, next_run_time=first_at)
        self._intervals.start()
        longest = timedelta(seconds=2 * max(tick_interval_s, sweep_interval_s))
        threading.Thread(target=self._watch_clock, args=(longest,), name="clock-watch", daemon=True).start()
        if listens:
            threading.Thread(target=self._listen, name="clock-listener", daemon=True).start()

    def stop(self) -> bool:
        """Stop and give up the lead; False if a tick or sweep was still in progress after STOP_WITHIN_S."""
        self._stopping.set()
        if self._intervals is not None:
            self._intervals.shutdown(wait=False)
        if not self._turn.acquire(timeout=STOP_WITHIN_S):
            return False
        try:
            self._leadership.release()
        finally:
            self._turn.release()
        return True

    def _tick(self, now: datetime) -> None:
        jobs = tick(self._engine, self._policy, now)
        self._sweep.enqueue(jobs, self._machine_now())
        reach(Failpoint.TICK_RUNG)

    def _tick_and_sweep(self) -> None:
        now = self._business_now()
        self._tick(now)
        self._wake(now)
        self._sweep(Moment(now, self._machine_now()))

    def _wake(self, now: datetime) -> None:
        """End the long back-offs of payments whose processor answers again; the sweep then finds them."""
        woken = in_transaction(
            self._engine, lambda connection: end_backoffs(connection, now, self._machine_now()), step="wake"
        )
        if woken:
            log.info("scheduler.outage_over", payments=len(woken))

    def _business_now(self) -> datetime:
        try:
            return self._clock.now()
        except LookupError as error:
            raise _NotReadyError(str(error)) from None

    def _in_turn(self, work: Callable[[], None]) -> None:
        """Work if this scheduler leads, and catch every error: the next turn tries again."""
        with self._turn:
            if self._stopping.is_set():
                return
            try:
                if self._leadership.is_ours():
                    work()
            except (psycopg.Error, SQLAlchemyError, _NotReadyError) as error:
                self._log_error(str(error).strip().splitlines()[0])
            except Exception:  # a defect of ours; if it ended the scheduler, everything else would stop too
                log.exception("scheduler.defect")
            else:
                self._log_error(None)

    def _log_error(self, error: str | None) -> None:
        """Log an error when it starts, changes and ends, not each second of an outage."""
        if error != self._last_error:
            if error is None:
                log.info("scheduler.recovered")
            else:
                log.warning("scheduler.waits", error=error, consequence="it tries again at the next tick")
            self._last_error = error

    def _watch_clock(self, longest: timedelta) -> None:
        """Keep the intervals running when the machine's clock is set back.

        APScheduler sleeps until a time of day: set back by an hour, it would not tick or sweep for an hour.
        """
        while self._intervals is not None and not self._stopping.wait(WATCH_CLOCK_EVERY_S):
            now = self._machine_now()
            late = [
                job for job in self._intervals.get_jobs() if job.next_run_time and job.next_run_time > now + longest
            ]
            for job in late:
                job.modify(next_run_time=now)
            if late:
                log.warning("scheduler.clock_set_back", consequence="ticks and sweeps continue by the new time")

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with connect(self._database_url, "duecourse-scheduler-listener") as connection:
                    connection.execute(f"LISTEN {CLOCK_CHANNEL}")
                    self.sweep()  # the clock may have moved before it listened
                    while not self._stopping.is_set():
                        if list(connection.notifies(timeout=LISTEN_FOR_S, stop_after=1)):
                            self.sweep()
            except psycopg.Error as error:
                log.debug("scheduler.listener_waits", error=str(error))
                self._stopping.wait(LISTEN_FOR_S)
