"""`duecourse queues …`: list, pause and resume queues, also while the dashboard is down."""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, TypeVar

import redis
import typer
from rich.table import Table
from sqlalchemy import Connection

from cli.console import clock_of, operator, out, plain_errors, print_error
from cli.environment import connect_settings
from shared.clock import machine_now
from shared.db.billing_events import Cause
from shared.db.session import in_transaction, make_engine
from shared.logs import redact
from shared.messaging.broker import make_broker
from shared.messaging.jobs import QUEUES
from shared.messaging.queue_depths import message_depths
from shared.messaging.queue_pauses import Pause, pause_queue, paused_queues, resume_queue
from shared.operations.audit_log import AuditAction, AuditEntry, record_action
from shared.settings import Settings
from web.dashboard.queries.queue_metrics import gather_queue_metrics

Result = TypeVar("Result")

app = typer.Typer(name="queues", help="List, pause and resume queues.", no_args_is_help=True)

Queue = Annotated[str, typer.Argument(metavar="QUEUE", help=f"One of {', '.join(QUEUES)}.")]
Reason = Annotated[str, typer.Option("--reason", help="Required; stored in the audit log.")]


@app.command("list")
def list_queues(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """List the queues: due work, waiting and in-flight messages in Redis, dead letters, and pauses."""
    with plain_errors():
        settings = connect_settings()
        now = clock_of(settings).now()
        with make_engine(settings, pool_size=1).connect() as connection:
            metrics = {one.queue: one for one in gather_queue_metrics(connection, now, machine_now())}
            pauses = paused_queues(connection)
    try:
        depths = message_depths(make_broker(settings.redis_url.get_secret_value()))
    except redis.RedisError as error:
        print_error(f"Redis doesn't answer ({redact(str(error))}): nothing is lost, what is due waits for it")
        depths = {}
    if as_json:
        print(json.dumps([_plain(queue, metrics, depths, pauses.get(queue)) for queue in QUEUES], indent=1))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("queue", "due", "waiting", "in flight", "dead", "paused"):
        table.add_column(name, justify="left" if name in ("queue", "paused") else "right")
    for queue in QUEUES:
        depth, pause = depths.get(queue), pauses.get(queue)
        figures = ("?",) * 3 if depth is None else (depth.waiting, depth.in_flight, depth.dead)
        by = f"by {pause.paused_by} since {pause.paused_at:%Y-%m-%d %H:%M} UTC: {pause.reason}" if pause else ""
        table.add_row(queue, str(metrics[queue].due), *map(str, figures), by)
    out().print(table)


@app.command("pause")
def pause(queue: Queue, reason: Reason) -> None:
    """Pause a queue: workers start none of its messages until it is resumed. Its rows stay due."""

    def work(connection: Connection, cause: Cause) -> Pause | None:
        known = paused_queues(connection).get(queue)
        return None if pause_queue(connection, queue, cause) else known

    known = _act(AuditAction.QUEUE_PAUSE, queue, reason, work, is_done=lambda result: result is None)
    if known is not None:
        print_error(f"{queue} is paused already, by {known.paused_by}: {known.reason}")
        raise typer.Exit(1)
    print(f"{queue} is paused: workers begin nothing of it within 3 s, and what is in flight ends")


@app.command("resume")
def resume(queue: Queue, reason: Reason) -> None:
    """Resume a paused queue."""

    def work(connection: Connection, cause: Cause) -> Pause | None:
        return resume_queue(connection, queue, cause)

    if _act(AuditAction.QUEUE_RESUME, queue, reason, work, is_done=lambda result: result is not None) is None:
        print_error(f"{queue} isn't paused; `duecourse queues list` shows all")
        raise typer.Exit(1)
    print(f"{queue} goes on within 3 s")


def _act(
    act: AuditAction,
    queue: str,
    reason: str,
    work: Callable[[Connection, Cause], Result],
    is_done: Callable[[Result], bool],
) -> Result:
    """Apply the action and write its audit entry in one transaction."""
    with plain_errors():
        if not reason.strip():
            raise LookupError("--reason is empty; a reason is required and stored in the audit log")
        settings: Settings = connect_settings()
        cause = Cause(operator(), clock_of(settings).now(), reason.strip())

        def apply(connection: Connection) -> Result:
            result = work(connection, cause)
            record_action(
                connection,
                AuditEntry(
                    act,
                    cause.actor,
                    cause.at,
                    subject_kind="lane",
                    subject=queue,
                    reason=cause.reason,
                    outcome="done" if is_done(result) else "refused",
                ),
            )
            return result

        return in_transaction(make_engine(settings, pool_size=1), apply)


def _plain(
    queue: str, metrics: Mapping[str, object], depths: Mapping[str, object], pause: Pause | None
) -> dict[str, object]:
    metric, depth = metrics[queue], depths.get(queue)
    return {
        "queue": queue,
        "lane": queue,  # its name before 0.3
        "due": getattr(metric, "due", None),
        "waiting": getattr(depth, "waiting", None),
        "in_flight": getattr(depth, "in_flight", None),
        "dead_letters": getattr(depth, "dead", None),
        "paused_by": pause.paused_by if pause else None,
        "paused_because": pause.reason if pause else None,
    }
