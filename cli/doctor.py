"""`duecourse doctor`: check the installation and say how to fix it. Never prints a secret."""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import redis
import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError as UnreadableSettingError
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cli.console import out
from cli.environment import FOLDER, connect_settings, environment_in_force
from shared.clock import machine_now
from shared.db.session import make_engine
from shared.db.upgrade import revisions
from shared.gateway.port import GatewayMissingError, GatewayUnavailableError
from shared.logs import redact
from shared.messaging.broker import NAMESPACE
from shared.messaging.jobs import QUEUES
from shared.messaging.queue_pauses import paused_queues
from shared.operations.heartbeats import live_processes
from shared.operations.stripe_accounts import WHAT_TO_DO, OtherAccount, pinned_account
from shared.policy import Policy, PolicyError, load_policy
from shared.scheduling.leader_lock import is_scheduler_alive
from shared.settings import ClockKind, Settings, SettingsError

OLDEST_POSTGRES, OLDEST_REDIS = 15, 7
#: Leases are minutes and Stripe's signatures allow 300 s: seconds do no harm, a minute would.
MAX_SKEW = timedelta(seconds=10)
#: A worker polls each queue at least once a second, whatever its settings; two looks this far apart see it (s).
LOOK_AGAIN_AFTER_S = 1.5
#: The embedded database stops when its disk is full: then is too late to hear of it.
MIN_FREE_BYTES = 1_000_000_000


class Verdict(StrEnum):
    OK = "ok"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One check: what was found, and what to do if that is a problem."""

    subject: str
    verdict: Verdict
    says: str
    do: str = ""


def ok(subject: str, says: str, do: str = "") -> Finding:
    return Finding(subject, Verdict.OK, says, do)


def problem(subject: str, says: str, do: str) -> Finding:
    return Finding(subject, Verdict.PROBLEM, says, do)


def skipped(subject: str, says: str) -> Finding:
    return Finding(subject, Verdict.SKIPPED, says)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """Check settings, servers, schema, keys, clocks and processes, and say what to do. Exit code 1 on a problem."""
    findings = list(examine())
    has_problem = any(finding.verdict is Verdict.PROBLEM for finding in findings)
    if as_json:
        print(json.dumps({"is_well": not has_problem, "findings": [asdict(one) for one in findings]}, indent=1))
    else:
        _print(findings)
    if has_problem:
        raise typer.Exit(1)


def examine(environ: Mapping[str, str] = os.environ, folder: Path = FOLDER) -> Iterator[Finding]:
    """Run all checks, in the order in which they depend on each other."""
    try:
        in_force = environment_in_force(environ, folder)
    except SettingsError as error:
        yield problem("environment", str(error), "run as that user, or set DATABASE_URL and REDIS_URL")
        return
    settings, troubles = _read_settings(folder)
    yield from _variables(environ, in_force, troubles)
    policy, finding = _policy(settings, in_force)
    yield finding
    yield _disk(folder)
    if settings is None:
        yield skipped("servers", "the settings above come first")
        return
    yield _clock_kind(settings)
    engine = make_engine(settings, pool_size=1)
    try:
        yield from _postgres(engine, settings)
    finally:
        engine.dispose()
    yield from _redis(settings)
    yield from _stripe(settings, policy)


def _read_settings(folder: Path) -> tuple[Settings | None, dict[str, str]]:
    """The settings, or what is wrong by variable ("" for what concerns several)."""
    try:
        return connect_settings(folder), {}
    except SettingsError as error:
        cause = error.__context__  # what load_settings put into words
        if isinstance(cause, UnreadableSettingError):
            name = next((a for f, a in _aliases().items() if f in str(cause)), "")
            return None, {name: 'is not JSON; it must be an object by coverage, like {"global": …}'}
        if not isinstance(cause, ValidationError):
            return None, {}  # DATABASE_URL or REDIS_URL is set nowhere: told with the variables
        found = {}
        for one in cause.errors():
            said = "is not set" if one["type"] == "missing" else one["msg"].removeprefix("Value error, ")
            found[".".join(str(part) for part in one["loc"])] = redact(said)
        return None, found


def _aliases() -> dict[str, str]:
    return {name: str(field.validation_alias) for name, field in Settings.model_fields.items()}


def _variables(
    environ: Mapping[str, str], in_force: Mapping[str, str], troubles: Mapping[str, str]
) -> Iterator[Finding]:
    for name, field in Settings.model_fields.items():
        variable = str(field.validation_alias)
        source = "set" if environ.get(variable) else "from the running `up`" if variable in in_force else "default"
        trouble = next((said for place, said in troubles.items() if place.split(".")[0] == variable), None)
        if trouble is not None:
            yield problem(variable, f"{source}; {trouble}", _how_to_set(variable))
        elif field.is_required() and variable not in in_force:
            yield problem(variable, "not set, and no `up` runs in this folder", _how_to_set(variable))
        elif variable in in_force:
            yield ok(variable, source)
        elif name in ("stripe_api_keys", "stripe_webhook_secrets"):
            yield problem(variable, "not set", _how_to_set(variable))
    if troubles.get(""):
        yield problem("settings", redact(troubles[""]), "correct what it names")


def _how_to_set(variable: str) -> str:
    return {
        "DATABASE_URL": "start `duecourse up`, or set it: postgresql://user:password@host:5432/name",
        "REDIS_URL": "start `duecourse up`, or set it: redis://:password@host:6379/0",
        "STRIPE_API_KEYS": 'set it: {"global": "sk_…", "japan": "sk_…"}',
        "STRIPE_WEBHOOK_SECRETS": 'set it: {"global": ["whsec_…"]}; the new one first while rotating',
    }.get(variable, f"correct {variable}, or unset it for the default")


def _policy(settings: Settings | None, in_force: Mapping[str, str]) -> tuple[Policy | None, Finding]:
    path = settings.billing_file if settings else Path(in_force.get("DUECOURSE_BILLING_FILE", "billing.toml"))
    try:
        policy = load_policy(path)
    except (PolicyError, OSError) as error:
        return None, problem("billing.toml", str(error), f"correct {path}, or set DUECOURSE_BILLING_FILE")
    return policy, ok("billing.toml", f"{path}: coverages {', '.join(sorted(policy.coverages))}")


def _clock_kind(settings: Settings) -> Finding:
    if settings.clock is ClockKind.SYSTEM:
        return ok("business clock", "the machine's")
    return ok("business clock", "virtual: for tests and demos; moved with `duecourse clock`")


def _disk(folder: Path) -> Finding:
    place = folder if folder.exists() else Path.cwd()
    free = shutil.disk_usage(place).free
    says = f"{free / 1e9:.1f} GB free at {place.resolve()}"
    if free < MIN_FREE_BYTES:
        return problem("disk", says, "free some space: a full disk stops the embedded servers")
    return ok("disk", says)


def _postgres(engine: Engine, settings: Settings) -> Iterator[Finding]:
    try:
        with engine.connect() as connection:
            yield from _in_postgres(connection, settings)
    except SQLAlchemyError as error:
        said = str(error.orig if isinstance(error, DBAPIError) else error).strip() or type(error).__name__
        do = "start it, or correct DATABASE_URL; nothing works without it, and nothing is lost"
        yield problem("PostgreSQL", redact(said.splitlines()[0]), do)


def _in_postgres(connection: Connection, settings: Settings) -> Iterator[Finding]:
    number = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    version = connection.execute(text("SHOW server_version")).scalar_one()
    if number // 10_000 < OLDEST_POSTGRES:
        yield problem("PostgreSQL", f"version {version}", f"upgrade to {OLDEST_POSTGRES} or later")
    else:
        yield ok("PostgreSQL", f"answers, version {version}")
    yield _durability(connection)
    before = machine_now()
    there = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    skew = there - (before + (machine_now() - before) / 2)
    yield _skew(skew)
    found, wanted = revisions(connection)
    if found != wanted:
        yield problem("schema", f"{found or 'empty'}, this release needs {wanted}", "run `duecourse db upgrade`")
        return
    yield ok("schema", f"{found}, up to date")
    if settings.clock is ClockKind.VIRTUAL:
        now = connection.scalar(text("SELECT now_at FROM business_clock"))
        if now is None:
            yield problem("virtual clock", "is not set", "run `duecourse clock set 2026-10-31T00:00:00Z`")
        else:
            yield ok("virtual clock", f"shows {now:%Y-%m-%d %H:%M:%S} UTC")
    if is_scheduler_alive(connection):
        yield ok("scheduler", "one leads")
    else:
        yield problem(
            "scheduler", "none leads: no work becomes due", "start `python -m scheduler`, or `duecourse up`"
        )
    yield _processes(connection)
    for pause in paused_queues(connection).values():
        says = f"paused by {pause.paused_by} since {pause.paused_at:%Y-%m-%d %H:%M} UTC: {pause.reason}"
        yield ok(f"queue {pause.queue}", says, f"`duecourse queues resume {pause.queue}` when that is over")


def _processes(connection: Connection) -> Finding:
    """Never a problem: a missing scheduler or worker is reported by its own check."""
    alive = Counter(one.kind for one in live_processes(connection, machine_now()))
    if alive:
        return ok("processes", ", ".join(f"{count} {kind}" for kind, count in sorted(alive.items())))
    return ok("processes", "no heartbeat", "start the lines of the Procfile, or `duecourse up`")


def _durability(connection: Connection) -> Finding:
    off = [
        name
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if connection.execute(text("SELECT current_setting(:name)"), {"name": name}).scalar_one() == "off"
    ]
    if off:
        do = "switch it on: after a power cut a charge could be forgotten here that the card was charged for"
        return problem("durability", f"{', '.join(off)} is off", do)
    return ok("durability", "commits are on disk before anything is sent")


def _skew(skew: timedelta) -> Finding:
    says = f"{abs(skew.total_seconds()):.1f} s between this machine and the database"
    if abs(skew) > MAX_SKEW:
        return problem("machine clocks", says, "let both follow NTP: leases and look-ups compare them")
    return ok("machine clocks", says)


def _redis(settings: Settings) -> Iterator[Finding]:
    url = settings.redis_url.get_secret_value()
    client = redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5, decode_responses=True)
    try:
        yield from _in_redis(client)
    except redis.RedisError as error:
        do = "start it, or correct REDIS_URL; meanwhile what is due waits, nothing is lost"
        yield problem("Redis", redact(str(error)), do)
    finally:
        client.close()


def _in_redis(client: "redis.Redis") -> Iterator[Finding]:
    info: Any = client.info()
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info["redis_version"])
    if int(version.split(".")[0]) < OLDEST_REDIS:
        yield problem("Redis", f"{name} {version}", f"upgrade to {OLDEST_REDIS} or later")
    else:
        yield ok("Redis", f"answers, {name} {version}")
    if int(info.get("aof_enabled", 0)):
        yield ok("Redis AOF", "on")
    else:
        do = "`appendonly yes`: without it the sweep must enqueue everything again after a restart"
        yield problem("Redis AOF", "off", do)
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        yield ok("Redis memory", "noeviction")
    else:
        yield problem("Redis memory", f"maxmemory-policy is {policy}", "`maxmemory-policy noeviction`")
    foreign = next((key for key in client.scan_iter(count=1_000) if not key.startswith(f"{NAMESPACE}:")), None)
    if foreign is None:
        yield ok("Redis database", "holds nothing but ours")
    else:
        do = "give Duecourse a database number of its own in REDIS_URL, if that key is another program's"
        yield ok("Redis database", "holds keys that aren't ours", do)
    yield _workers(client)
    waiting = {queue: int(client.llen(f"{NAMESPACE}:{queue}")) for queue in QUEUES}
    dead = sum(int(client.zcard(f"{NAMESPACE}:{queue}.XQ")) for queue in QUEUES)
    shown = ", ".join(f"{count:,} {queue}" for queue, count in waiting.items())
    yield ok("queues", f"waiting: {shown}" + (f"; {dead:,} dead letters, whose rows come back" if dead else ""))


def _workers(client: "redis.Redis") -> Finding:
    """Count the heartbeats that advance between two checks; that of a process that only enqueues does not."""
    key = f"{NAMESPACE}:__heartbeats__"
    before: dict[str, float] = dict(client.zrange(key, 0, -1, withscores=True))  # type: ignore[arg-type]
    time.sleep(LOOK_AGAIN_AFTER_S)
    after: dict[str, float] = dict(client.zrange(key, 0, -1, withscores=True))  # type: ignore[arg-type]
    alive = sum(1 for name, score in after.items() if before.get(name) != score)
    if alive:
        return ok("workers", f"{alive} poll the queues")
    do = "start the worker lines of the Procfile, or `duecourse up`"
    return problem("workers", "no worker polls the queues: nothing is charged", do)


def _stripe(settings: Settings, policy: Policy | None) -> Iterator[Finding]:
    from shared.gateway.stripe_gateway import make_gateways  # the SDK is slow to import

    gateways = make_gateways(settings)
    keys = {name: key.get_secret_value() for name, key in settings.stripe_api_keys.items()}
    for coverage in sorted(policy.coverages if policy else keys):
        subject = f"Stripe, {coverage}"
        if coverage not in keys:
            yield problem(subject, "no key", f"add {coverage} to STRIPE_API_KEYS")
            continue
        yield _key(coverage, gateways[coverage].check_key, keys[coverage], settings)
        secrets = settings.stripe_webhook_secrets.get(coverage, [])
        if secrets:
            yield ok(f"webhook secrets, {coverage}", f"{len(secrets)}")
        else:
            do = f"add {coverage} to STRIPE_WEBHOOK_SECRETS: without it no card registration arrives"
            yield problem(f"webhook secrets, {coverage}", "none", do)
    unknown = sorted(set(keys) - set(policy.coverages)) if policy else []
    if unknown:
        yield problem("STRIPE_API_KEYS", f"names {', '.join(unknown)}, not in billing.toml", "correct the name")
    live = {"_live_" in key for key in keys.values()}
    if len(live) > 1:
        do = "use keys of one kind: real and imagined money in one database can't be told apart"
        yield problem("Stripe mode", "some keys are live, others are test keys", do)


def _key(coverage: str, check: Callable[[], str], key: str, settings: Settings) -> Finding:
    subject = f"Stripe, {coverage}"
    is_live = "_live_" in key
    base = settings.stripe_api_base
    mode = "live" if is_live else "test"
    try:
        account = check()
    except (GatewayUnavailableError, GatewayMissingError) as error:
        do = "correct the key in STRIPE_API_KEYS, or see status.stripe.com; meanwhile what is due backs off"
        return problem(subject, redact(str(error)), do)
    pinned = _pinned(settings, coverage)
    if pinned is not None and pinned != account:
        return problem(subject, str(OtherAccount(coverage, pinned, account)), WHAT_TO_DO)
    as_pinned = "as pinned" if pinned else "to be pinned at the first start of a worker"
    return ok(subject, f"{mode} key works, account {account}, {as_pinned}" + (f", at {base}" if base else ""))


def _pinned(settings: Settings, coverage: str) -> str | None:
    """Return the account that the coverage uses; None if none is pinned, or the database doesn't say."""
    try:
        with make_engine(settings, pool_size=1).connect() as connection:
            return pinned_account(connection, coverage)
    except SQLAlchemyError:
        return None  # the database's own lines say why


def _print(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("what", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("seen")
    table.add_column("to do")
    style = {Verdict.OK: "green", Verdict.PROBLEM: "bold red", Verdict.SKIPPED: "dim"}
    for finding in findings:
        verdict = Text(finding.verdict, style=style[finding.verdict])
        table.add_row(Text(finding.subject), verdict, Text(finding.says), Text(finding.do))
    console = out()
    console.print(table)
    problems = sum(1 for finding in findings if finding.verdict is Verdict.PROBLEM)
    console.print()
    if problems:
        console.print(f"{problems} problem{'s' if problems > 1 else ''}", style="bold red")
    else:
        console.print("all is well", style="bold green")
