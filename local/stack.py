"""The stack: servers, simulator and the Procfile's processes, with the environment that connects them.

Variables that are set are used; the others are provided here: embedded servers, the simulator as card processor,
webhook secrets. `.duecourse/up.json` contains the environment of the running stack, for other commands;
`.duecourse/stack.json` keeps what must survive it (secrets of the simulator's webhooks, the kind of clock).
"""

import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from local import embedded
from local.supervisor import Process, Supervisor, read_procfile
from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES
from shared.policy import Policy, load_policy
from shared.settings import ENV_NAMES, check_database_url

#: The data folder, below the folder in which Duecourse is started.
DATA = Path(".duecourse")
PROJECT = Path(__file__).resolve().parent.parent
#: Longer than a worker's own 40 s: a charge in flight may finish and be recorded.
GRACE_S = 45.0
READY_WITHIN_S = 60.0
#: Stripe's limits don't apply to the simulator.
SIMULATOR_REQUESTS_PER_S = "10000"


class StackError(Exception):
    """The stack can't start; the message says what to do."""


@dataclass(frozen=True)
class Stack:
    """The processes to run, and their environment."""

    environment: Mapping[str, str]
    processes: list[Process]
    simulator_url: str | None
    web_url: str
    policy: Policy


@contextmanager
def prepared_stack(
    data: Path = DATA, *, overrides: Mapping[str, str] | None = None, procfile: Path = PROJECT / "Procfile"
) -> Iterator[Stack]:
    """Start the servers that aren't given, and yield the stack to run; stop the servers at the end.

    `overrides` have precedence over the environment. Raises StackError and embedded.EmbeddedError.
    """
    overrides = {name: value for name, value in (overrides or {}).items() if value}
    given = {**os.environ, **overrides}
    _check(given)
    policy = load_policy(Path(given.get("DUECOURSE_BILLING_FILE", "billing.toml")))  # before anything is started
    state = _load_state(data)
    with ExitStack() as opened:
        urls = opened.enter_context(embedded.resolve(data, given))
        environment = {"DUECOURSE_CLOCK": state.get("clock", "system"), **urls.as_environ(), **overrides}
        listening = opened.enter_context(_listening(given))
        host, web_port = listening.getsockname()[:2]
        environment["PORT"] = str(web_port)
        web_url = f"http://{host}:{web_port}"
        processes = [_bound(process, web_url, listening) for process in read_procfile(procfile)]
        simulator_url = None
        if not given.get("STRIPE_API_KEYS"):
            simulator_url = f"http://127.0.0.1:{_port(int(state.get('simulator_port', 0)))}"
            environment |= _simulated_processor(data, state, policy, simulator_url, web_url)
            processes = [_simulator_process(simulator_url), *processes]
        _save_state(data, {**state, "clock": environment["DUECOURSE_CLOCK"]})
        yield Stack(
            environment=environment,
            processes=[_with_environment(process, environment) for process in processes],
            simulator_url=simulator_url,
            web_url=web_url,
            policy=policy,
        )


def _check(given: Mapping[str, str]) -> None:
    """Refuse what is wrong here, before every process refuses it in a restart loop.

    The variables of another `up` are wrong too: its servers end with it, and with its keys no simulator is started.
    """
    if names := given.get(ENV_NAMES):
        raise StackError(
            'this shell has the variables of another `up`, from `eval "$(duecourse env)"`: its servers and its '
            f"simulator would be used, which end with it. Use another shell, or remove them:\n"
            f"unset {names} {ENV_NAMES}"
        )
    if url := given.get("DATABASE_URL"):
        try:
            check_database_url(url)
        except ValueError as error:
            raise StackError(f"DATABASE_URL {error}") from None


@contextmanager
def running_stack(
    stack: Stack, data: Path = DATA, *, on_line: Callable[[str, str], None] | None = None
) -> Iterator[Supervisor]:
    """Run the stack in the background until the block ends; every process is ready when the block begins."""
    supervisor = Supervisor(stack.processes, data / "logs", on_line, quiet=True, grace_s=GRACE_S)
    with announced(stack, data), supervisor:
        supervisor.wait_until_ready(READY_WITHIN_S)
        yield supervisor


@contextmanager
def announced(stack: Stack, data: Path) -> Iterator[None]:
    """Write up.json for other commands, as long as the block lasts. It contains secrets: mode 0600."""
    path = data / "up.json"
    _write_private(path, {"environment": dict(stack.environment), "pid": os.getpid()})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _simulated_processor(
    data: Path, state: dict[str, Any], policy: Policy, simulator_url: str, web_url: str
) -> dict[str, str]:
    webhook_secrets = state.setdefault("webhook_secrets", {})
    for coverage in policy.coverages:
        webhook_secrets.setdefault(coverage, f"whsec_{secrets.token_hex(16)}")
    state["simulator_port"] = simulator_url.rsplit(":", 1)[1]
    webhooks = [
        {
            "account": coverage,
            "url": f"{web_url}/webhooks/stripe/{coverage}",
            "secret": webhook_secrets[coverage],
            "enabled_events": sorted(HANDLED_EVENT_TYPES),  # as one would configure it at Stripe
        }
        for coverage in policy.coverages
    ]
    return {
        "STRIPE_API_BASE": simulator_url,
        "STRIPE_API_KEYS": json.dumps({coverage: f"sk_test_sim_{coverage}" for coverage in policy.coverages}),
        "STRIPE_WEBHOOK_SECRETS": json.dumps({c: [webhook_secrets[c]] for c in policy.coverages}),
        "STRIPE_REQUESTS_PER_S": SIMULATOR_REQUESTS_PER_S,
        "SIMULATOR_PORT": simulator_url.rsplit(":", 1)[1],
        "SIMULATOR_DATA": str(data / "simulator"),
        "SIMULATOR_WEBHOOKS": json.dumps(webhooks),
    }


def _simulator_process(url: str) -> Process:
    return Process("simulator", ["python", "-m", "simulator"], is_ready=lambda: _answers(f"{url}/_sim/health"))


def _bound(process: Process, web_url: str, listening: socket.socket) -> Process:
    """Pass the web process its socket, so that no other process can take the port before a start or restart."""
    if process.name != "web":
        return process
    fd = listening.fileno()
    return replace(
        process, env={"DUECOURSE_WEB_FD": str(fd)}, is_ready=lambda: _answers(f"{web_url}/readyz"), pass_fds=(fd,)
    )


def _with_environment(process: Process, environment: Mapping[str, str]) -> Process:
    return replace(process, env={**environment, **process.env})


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _listening(given: Mapping[str, str]) -> socket.socket:
    """Listen on PORT if it is set, else on 8400 or, if that is taken, on any free port."""
    host = given.get("DUECOURSE_WEB_HOST", "127.0.0.1")
    for port in [given["PORT"]] if given.get("PORT") else [8400, 0]:
        try:
            return socket.create_server((host, int(port)), backlog=512)
        except (OSError, ValueError, OverflowError) as error:
            reason = error
    raise StackError(f"{host} can't be bound ({reason}); set PORT to a free port")


def _port(preferred: int) -> int:
    """Return the preferred port if it is free, else any: two checkouts may run at the same time."""
    for candidate in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
                probe.listen()  # fails for a port that another process has bound but not yet listens on
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StackError("no port is free on 127.0.0.1")


def _load_state(data: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads((data / "stack.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StackError(
            f"{data / 'stack.json'} is damaged ({error}); move it away to start with a new one"
        ) from None
    return loaded


def _save_state(data: Path, state: Mapping[str, Any]) -> None:
    _write_private(data / "stack.json", state)


def _write_private(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(content, indent=1), "utf-8")
    fresh.replace(path)
