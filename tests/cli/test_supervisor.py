"""The supervisor behind `duecourse up`: starts, starts again, stops once and in time, and leaves nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from local import supervisor
from local.supervisor import Process, Supervisor, SupervisorError, read_procfile

pytestmark = pytest.mark.processes

REPOSITORY = Path(__file__).parents[2]
SLEEP = ["sleep", "100"]

# Says that it is ready and each signal that it gets; ends `delay` seconds after the first SIGTERM, or never.
TALKER = """
import signal, sys, time
end = None
def tell(number, frame):
    global end
    print("got", signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM and end is None:
        end = time.monotonic() + float(sys.argv[1])
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, tell)
print("ready", flush=True)
while end is None or time.monotonic() < end:
    time.sleep(0.01)
print("bye", flush=True)
"""

# Starts a child that ignores SIGTERM in its own process group, names it, and waits.
PARENT = """
import subprocess, time
child = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
print("child", child.pid, flush=True)
time.sleep(100)
"""

# `duecourse up` in small: the processes come as arguments, name by name.
UP = """
import sys
from pathlib import Path
from local.supervisor import Process, Supervisor
processes = [Process(f"p{n}", [sys.executable, "-c", code, "0.3"]) for n, code in enumerate(sys.argv[3:])]
sys.exit(Supervisor(processes, Path(sys.argv[1]), grace_s=float(sys.argv[2])).run())
"""


def talker(name: str, delay: float = 0.0) -> Process:
    return Process(name, [sys.executable, "-c", TALKER, str(delay)])


def eventually(condition: Callable[[], object], what: str, deadline_s: float = 15.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Running:
    """A supervisor in this process, with its output lines."""

    def __init__(self, *processes: Process, log_dir: Path, grace_s: float = 10.0) -> None:
        self.output: list[tuple[str, str]] = []
        self.supervisor = Supervisor(
            processes, log_dir, lambda *line: self.output.append(line), quiet=True, grace_s=grace_s
        )

    def lines(self, name: str) -> list[str]:
        return [line for who, line in self.output if who == name]

    def wait_for_line(self, name: str, text: str) -> str:
        eventually(lambda: any(text in line for line in self.lines(name)), f"{name} says {text!r}: {self.output}")
        return next(line for line in self.lines(name) if text in line)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as stack:

        def start(*processes: Process, grace_s: float = 10.0) -> Running:
            running = Running(*processes, log_dir=tmp_path / "logs", grace_s=grace_s)
            stack.enter_context(running.supervisor)
            return running

        yield start


Run = Callable[..., Running]


def test_each_line_is_sent_to_the_listener_and_to_the_process_log(run: Run, tmp_path: Path) -> None:
    running = run(
        Process("web", ["sh", "-c", "echo out; echo err >&2; printf unfinished; exec sleep 100"]), talker("worker")
    )
    running.wait_for_line("web", "err")
    running.wait_for_line("worker", "ready")
    assert running.supervisor.stop() == 0
    assert running.lines("web") == ["out", "err", "unfinished"]
    assert (tmp_path / "logs/web.log").read_text() == "out\nerr\nunfinished\n"
    assert (tmp_path / "logs/worker.log").read_text() == "ready\ngot SIGTERM\nbye\n"


def test_a_killed_process_is_restarted_with_growing_pauses(run: Run) -> None:
    running = run(talker("worker"))
    for number, pause in enumerate(("0.2", "0.4", "0.8")):
        eventually(lambda n=number: running.lines("worker").count("ready") == n + 1, "ready again")
        pid = running.supervisor.pid_of("worker")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        running.wait_for_line("worker", f"ended by SIGKILL; restarting in {pause} s")
    eventually(lambda: running.supervisor.pid_of("worker") not in {None, pid}, "another pid")
    assert running.supervisor.restarts("worker") == 3
    assert running.supervisor.exit_codes() == {"worker": -signal.SIGKILL}


def test_a_process_that_lived_long_is_restarted_with_the_first_pause(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SETTLED_S", 0.0)
    running = run(Process("worker", ["sh", "-c", "exit 3"]))
    eventually(lambda: running.supervisor.restarts("worker") >= 2, "two restarts")
    assert {line.split("; ")[1] for line in running.lines("worker")} == {"restarting in 0.2 s"}
    assert running.supervisor.exit_codes() == {"worker": 3}


def test_an_unknown_command_is_named_in_the_log(run: Run) -> None:
    running = run(Process("worker", ["no-such-program"]))
    running.wait_for_line("worker", "can't run no-such-program")


def test_orphans_of_a_killed_process_are_killed_before_its_restart(run: Run) -> None:
    running = run(Process("worker", [sys.executable, "-c", PARENT]))
    orphan = int(running.wait_for_line("worker", "child").split()[1])
    pid = running.supervisor.pid_of("worker")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    running.wait_for_line("worker", "restarting")
    eventually(lambda: not is_running(orphan), "end of the orphan")


def test_stop_waits_for_the_grace_period_and_then_kills_the_group(run: Run) -> None:
    running = run(talker("quick"), talker("late", 0.3), talker("stuck", 1000), grace_s=1.5)
    for name in ("quick", "late", "stuck"):
        running.wait_for_line(name, "ready")
    assert running.supervisor.stop() == 1, "something had to be killed"
    assert running.lines("quick") == ["ready", "got SIGTERM", "bye"]
    assert running.lines("late") == ["ready", "got SIGTERM", "bye"]
    assert running.lines("stuck")[-1] == "[supervisor] still running 1.5 s after SIGTERM: killed"
    assert running.supervisor.exit_codes() == {"quick": 0, "late": 0, "stuck": -signal.SIGKILL}


def test_the_release_exits_before_anything_else_starts(run: Run, tmp_path: Path) -> None:
    release = Process("release", ["sh", "-c", f"sleep 0.3; touch {tmp_path}/migrated"], is_release=True)
    running = run(Process("web", ["sh", "-c", f"ls {tmp_path}; exec sleep 100"]), release)
    running.wait_for_line("web", "migrated")
    assert running.supervisor.restarts("release") == 0
    assert running.supervisor.exit_codes()["release"] == 0


def test_a_failing_release_stops_everything_with_its_exit_code(run: Run) -> None:
    running = run(Process("release", ["sh", "-c", "exit 7"], is_release=True), Process("web", SLEEP))
    assert running.supervisor.wait() == 7
    assert running.output == [("release", "[supervisor] exited with 7; nothing else is started")]
    with pytest.raises(SupervisorError, match="didn't start"):
        running.supervisor.wait_until_ready(5)


def test_wait_until_ready_waits_for_every_process(run: Run, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    web = Process("web", ["sh", "-c", f"sleep 0.2; touch {flag}; exec sleep 100"], is_ready=flag.exists)
    running = run(web, Process("worker", SLEEP))
    running.supervisor.wait_until_ready(10)
    assert flag.exists()
    never = run(Process("broken", SLEEP, is_ready=lambda: False))
    with pytest.raises(SupervisorError, match=r"broken didn't start. Its log: .*/broken\.log"):
        never.supervisor.wait_until_ready(0.2)


def test_several_instances_are_numbered_and_have_their_own_environment(run: Run) -> None:
    running = run(Process("worker", ["sh", "-c", "echo $LANE; exec sleep 100"], env={"LANE": "batch"}, count=2))
    for name in ("worker.1", "worker.2"):
        running.wait_for_line(name, "batch")
    assert running.supervisor.pid_of("worker.1") != running.supervisor.pid_of("worker.2")


def test_a_long_log_is_rotated_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 1000)
    running = run(Process("worker", ["sh", "-c", "seq 1 2000; exec sleep 100"]))
    running.wait_for_line("worker", "2000")
    logs = sorted((tmp_path / "logs").iterdir())
    assert [log.name for log in logs] == ["worker.log", "worker.log.1"]
    assert all(log.stat().st_size < 1100 for log in logs)


def test_an_error_in_the_listener_is_raised_and_leaves_nothing_running(tmp_path: Path) -> None:
    def listen(_name: str, line: str) -> None:
        pids.append(int(line))
        raise RuntimeError("a bug of ours")

    pids: list[int] = []
    broken = Supervisor(
        [Process("web", ["sh", "-c", "echo $$; exec sleep 100"])], tmp_path, listen, quiet=True, grace_s=1
    )
    broken.start()
    with pytest.raises(RuntimeError, match="a bug of ours"):
        broken.wait()
    eventually(lambda: not is_running(pids[0]), "end of web")


def test_a_procfile_is_read_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text(
        "# comment\nrelease: duecourse db upgrade\n\nweb: uvicorn --port 8000 'web app'\n"
    )
    assert read_procfile(tmp_path / "Procfile") == [
        Process("release", ["/bin/sh", "-c", "exec duecourse db upgrade"], is_release=True),
        Process("web", ["/bin/sh", "-c", "exec uvicorn --port 8000 'web app'"]),
    ]


# In the foreground, in its own process.


@contextlib.contextmanager
def up(log_dir: Path, *codes: str, grace_s: float = 10.0) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", UP, str(log_dir), str(grace_s), *codes],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        process_group=0,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _log(log_dir: Path, name: str) -> str:
    path = log_dir / f"{name}.log"
    return path.read_text() if path.exists() else ""


def _children(process: "subprocess.Popen[str]") -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT, signal.SIGTERM] * 3],
)
def test_several_stop_signals_send_each_process_one_sigterm(tmp_path: Path, signals: list[signal.Signals]) -> None:
    with up(tmp_path, TALKER, TALKER) as process:
        for name in ("p0", "p1"):
            eventually(lambda name=name: "ready" in _log(tmp_path, name), f"{name} ready")
        children = _children(process)
        for number in signals:
            os.killpg(process.pid, number)  # to the whole foreground group, as a terminal does
        output, _ = process.communicate(timeout=60)  # machines may be busy
        assert process.returncode == 0
        assert _log(tmp_path, "p0") == _log(tmp_path, "p1") == "ready\ngot SIGTERM\nbye\n"
        assert "p0 │ ready" in output
        assert "p1 │ bye" in output
        assert not any(map(is_running, children))


def test_killing_the_supervisor_ends_its_processes_and_their_children(tmp_path: Path) -> None:
    with up(tmp_path, TALKER, PARENT, grace_s=1.0) as process:
        eventually(lambda: "ready" in _log(tmp_path, "p0") and "child" in _log(tmp_path, "p1"), "both run")
        children = _children(process)
        assert len(children) >= 4, "two processes, a child that ignores SIGTERM, the orphan killer"
        process.kill()
        eventually(lambda: not any(map(is_running, children)), "end of all")


def test_if_supervisor_and_orphan_killer_are_killed_the_kernel_still_sends_sigterm(tmp_path: Path) -> None:
    with up(tmp_path, TALKER) as process:
        eventually(lambda: "ready" in _log(tmp_path, "p0"), "ready")
        children = _children(process)
        orphan_killer = next(pid for pid in children if "groups" in " ".join(psutil.Process(pid).cmdline()))
        os.kill(orphan_killer, signal.SIGKILL)
        process.kill()
        eventually(lambda: not any(map(is_running, children)), "end of all")


def test_a_blocked_terminal_does_not_prevent_the_stop(tmp_path: Path) -> None:
    flood = f"for _ in range(500): print('y' * 1000)\n{TALKER}"
    with up(tmp_path, flood) as process:  # nobody reads its standard output, and the pipe holds 64 KiB
        eventually(lambda: "ready" in _log(tmp_path, "p0"), "ready")
        children = _children(process)
        process.terminate()
        eventually(lambda: not any(map(is_running, children)), "end of all")
        assert _log(tmp_path, "p0").endswith("ready\ngot SIGTERM\nbye\n")
