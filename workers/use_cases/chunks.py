"""Work on a long job in chunks for a limited time, then enqueue the rest."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from shared.failpoints import reach_edge
from shared.messaging.jobs import Job
from shared.runtime import Runtime

#: How long one message works before it enqueues the next: far below any time limit of an actor, and short enough
#: that a worker that shuts down (40 s of grace) needn't be killed, and that other jobs don't wait long.
WORK_FOR = timedelta(seconds=20)


def work_in_chunks(
    runtime: Runtime, work_on_chunk: Callable[[], Sequence[Job] | None], again: Job, *, step: str
) -> None:
    """Work chunk by chunk; after WORK_FOR, enqueue `again`, which continues.

    `work_on_chunk` returns the jobs that its chunk made due, which are enqueued at once; None if nothing is left or
    another worker has the job. `step` names the failpoints.
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
