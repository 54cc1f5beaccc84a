"""Work on something long in chunks, for a while, and then hand it to the next message."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from shared.failpoints import reach_edge
from shared.messaging.jobs import Job
from shared.runtime import Runtime

#: How long one message works before it enqueues the next: far below any time limit of an actor, and short enough
#: that a worker told to stop needn't be killed (it is given 40 s) and that nothing else waits for long.
WORK_FOR = timedelta(seconds=20)


def work_in_chunks(
    runtime: Runtime, work_on_chunk: Callable[[], Sequence[Job] | None], again: Job, *, step: str
) -> None:
    """Do chunk after chunk; once WORK_FOR is over, enqueue `again`, which goes on.

    `work_on_chunk` returns what its chunk made due, which is enqueued at once; None once there is nothing left to
    do, or another worker is on it. `step` names the failpoints.
    """
    stop_at = runtime.machine_now() + WORK_FOR
    while runtime.machine_now() < stop_at:
        jobs = work_on_chunk()
        if jobs is None:
            return
        runtime.enqueue(jobs)
        if jobs:
            reach_edge(step, "chunk.rung")
    reach_edge(step, "ringing")
    runtime.enqueue([again])
