"""Faults of processes: SIGKILL, SIGTERM twice, and SIGSTOP for longer than a lease."""

import contextlib
import json
import os
import signal
import time

from local.chaos.context import ChaosContext, Injectors, NotPossibleNow
from local.chaos.plan import Planned

#: Faults hit a process only after so many times the duration of a start (Company.start_s): a process that is killed
#: before it has started does no work, and its faults would hit nothing.
_STARTS = 1.5


def _pid(context: ChaosContext, name: str) -> int:
    """Return the process's id. Raises NotPossibleNow if it isn't running or only just started."""
    pid, now = context.company.supervisor.pid_of(name), time.monotonic()
    if pid is None:
        raise NotPossibleNow(f"{name} isn't running")
    before, since = context.running_since.get(name, (0, 0.0))
    if pid != before:
        before, since = context.running_since[name] = pid, now if before else 0.0
    if now - since < _STARTS * context.company.start_s:
        raise NotPossibleNow(f"{name} has only just been started")
    return pid


def note_restarts(context: ChaosContext) -> None:
    """Note when each process was started. Called a few times a second."""
    for name in ("worker-interactive", "worker-batch", "scheduler.1", "scheduler.2", "web", "simulator"):
        with contextlib.suppress(NotPossibleNow):
            _pid(context, name)


def kill(context: ChaosContext, fault: Planned) -> None:
    """Kill -9 a process and all its children."""
    os.killpg(_pid(context, fault.target), signal.SIGKILL)
    context.record_hit(fault.kind)


def kill_simulator(context: ChaosContext, fault: Planned) -> None:
    """Kill -9 the processor; what it committed is there after its restart."""
    pid = _pid(context, fault.target)
    with context.fault_queue.simulator_killed():
        os.killpg(pid, signal.SIGKILL)
    context.record_hit(fault.kind)


def sigterm_twice(context: ChaosContext, fault: Planned) -> None:
    """Send SIGTERM to the whole group and again a moment later, as Procfile runners do."""
    pid = _pid(context, fault.target)
    os.killpg(pid, signal.SIGTERM)
    context.record_hit(fault.kind)
    time.sleep(fault.get("seconds"))
    with contextlib.suppress(ProcessLookupError):
        if context.company.supervisor.pid_of(fault.target) == pid:
            os.kill(pid, signal.SIGTERM)


def freeze(context: ChaosContext, fault: Planned) -> None:
    """Stop a worker for longer than its leases, then continue it."""
    pid = _pid(context, fault.target)
    os.killpg(pid, signal.SIGSTOP)
    context.record_hit(fault.kind)
    context.wait(fault.get("seconds"))
    with contextlib.suppress(ProcessLookupError):
        if context.company.supervisor.pid_of(fault.target) == pid:
            os.killpg(pid, signal.SIGCONT)


def keys_swapped(context: ChaosContext, fault: Planned) -> None:
    """Restart a worker with the keys of two coverages swapped, as after a wrong edit of the environment."""
    keys = json.loads(context.company.stack.environment["STRIPE_API_KEYS"])
    names = sorted(keys)
    swapped = dict(zip(names, [keys[name] for name in (*names[1:], names[0])], strict=True))
    with context.company.supervisor.started_with(fault.target, {"STRIPE_API_KEYS": json.dumps(swapped)}):
        os.killpg(_pid(context, fault.target), signal.SIGKILL)
        context.record_hit(fault.kind)
        context.wait(fault.get("seconds"))
    # It may have started while the processor was unreachable: then it runs, and sends nothing. The operator who
    # corrects the keys starts it again.
    started_with_them = context.company.supervisor.pid_of(fault.target)
    if started_with_them is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started_with_them, signal.SIGKILL)


INJECTORS: Injectors = {
    "sigterm_twice": sigterm_twice,
    "kill_worker_interactive": kill,
    "kill_worker_batch": kill,
    "kill_scheduler": kill,
    "kill_web": kill,
    "kill_simulator": kill_simulator,
    "freeze_worker": freeze,
    "keys_swapped": keys_swapped,
}
