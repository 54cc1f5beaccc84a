"""Requests to the processor that a worker sends: each has a failpoint at either edge."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from shared.failpoints import reach_edge

Parameters = ParamSpec("Parameters")
Answered = TypeVar("Answered")


def request(
    step: str, send: Callable[Parameters, Answered], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Answered:
    """Send a request by one of a gateway's methods; reach `<step>.sending` before it, `<step>.sent` after it.

    What the method raises is raised, and `.sent` isn't reached then: there was no answer.
    """
    reach_edge(step, "sending")
    answered = send(*args, **kwargs)
    reach_edge(step, "sent")
    return answered
