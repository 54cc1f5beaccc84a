"""Faults of processes: killed, told twice to stop, frozen for longer than a lease."""

import contextlib
import os
import signal
import time

from local.chaos.context import ChaosContext, NotNow, Strikes
from local.chaos.plan import Planned

#: A start takes this long where nothing else runs (s); longer on a busy machine, see Company.start_s. Who is hit
#: again before it has come up never works, and its faults would hit nothing.
_STARTS = 1.5


def _pid(scene: ChaosContext, name: str) -> int:
    """The process's id, once it has had the time to come up."""
    pid, now = scene.company.supervisor.pid_of(name), time.monotonic()
    if pid is None:
        raise NotNow(f"{name} isn't running")
    before, since = scene.lives.get(name, (0, 0.0))
    if pid != before:
        before, since = scene.lives[name] = pid, now if before else 0.0
    if now - since < _STARTS * scene.company.start_s:
        raise NotNow(f"{name} has only just been started")
    return pid


def look(scene: ChaosContext) -> None:
    """Notice who was started again. Called a few times a second."""
    for name in ("worker-interactive", "worker-batch", "scheduler.1", "scheduler.2", "web", "simulator"):
        with contextlib.suppress(NotNow):
            _pid(scene, name)


def kill(scene: ChaosContext, fault: Planned) -> None:
    """Kill -9 a process with all its children, at whatever it is doing."""
    os.killpg(_pid(scene, fault.target), signal.SIGKILL)
    scene.landed(fault.kind)


def kill_simulator(scene: ChaosContext, fault: Planned) -> None:
    """The processor's machine dies; what it had committed is there when it is back."""
    pid = _pid(scene, fault.target)
    with scene.armoury.simulator_dies():
        os.killpg(pid, signal.SIGKILL)
    scene.landed(fault.kind)


def sigterm_twice(scene: ChaosContext, fault: Planned) -> None:
    """As Procfile runners do it: to the whole group, and again a moment later."""
    pid = _pid(scene, fault.target)
    os.killpg(pid, signal.SIGTERM)
    scene.landed(fault.kind)
    time.sleep(fault.get("seconds"))
    with contextlib.suppress(ProcessLookupError):
        if scene.company.supervisor.pid_of(fault.target) == pid:
            os.kill(pid, signal.SIGTERM)


def freeze(scene: ChaosContext, fault: Planned) -> None:
    """Stop a worker for longer than its leases last, then let it go on as if nothing had been."""
    pid = _pid(scene, fault.target)
    os.killpg(pid, signal.SIGSTOP)
    scene.landed(fault.kind)
    scene.last(fault.get("seconds"))
    with contextlib.suppress(ProcessLookupError):
        if scene.company.supervisor.pid_of(fault.target) == pid:
            os.killpg(pid, signal.SIGCONT)


STRIKES: Strikes = {
    "sigterm_twice": sigterm_twice,
    "kill_worker_interactive": kill,
    "kill_worker_batch": kill,
    "kill_scheduler": kill,
    "kill_web": kill,
    "kill_simulator": kill_simulator,
    "freeze_worker": freeze,
}
