"""Refusals in Stripe's shape (docs.stripe.com/api/errors).

Raising ApiError rolls back whatever the handler wrote. A refusal that changes something (a decline with its failed
charge, the confirm that meets the limit) is returned as an answer instead.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A status and a body; `headers` beyond those that every answer carries."""

    status: int
    body: dict[str, Any]
    headers: tuple[tuple[str, str], ...] = ()


class ApiError(Exception):
    """A refusal. `is_saved` says whether the idempotency layer keeps it.

    Stripe: "we don't save the idempotent result if incoming parameters fail validation, or if the request
    conflicts with another request that's executing concurrently".
    """

    def __init__(self, answer: Answer, *, is_saved: bool) -> None:
        super().__init__(answer.body["error"]["message"])
        self.answer = answer
        self.is_saved = is_saved


def error_body(message: str, kind: str, **fields: Any) -> dict[str, Any]:
    """Write an error object; like Stripe's, it omits what is null."""
    error: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    if code := error.get("code"):
        error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
    return {"error": {**error, "message": message, "type": kind}}


def bad_parameter(message: str, param: str, code: str | None = None) -> ApiError:
    """400: the parameters fail validation. Nothing started, so the answer isn't saved under its key."""
    return ApiError(
        Answer(400, error_body(message, "invalid_request_error", code=code, param=param)), is_saved=False
    )


def refused(message: str, code: str | None = None, **fields: Any) -> ApiError:
    """400: the request is valid, but not possible in this state."""
    return ApiError(Answer(400, error_body(message, "invalid_request_error", code=code, **fields)), is_saved=True)


def missing(what: str, object_id: str, param: str = "id", *, status: int = 404) -> ApiError:
    """404 for an id in the path, 400 for an id in a parameter, as at Stripe."""
    body = error_body(
        f"No such {what}: '{object_id}'", "invalid_request_error", code="resource_missing", param=param
    )
    return ApiError(Answer(status, body), is_saved=True)


def unauthorized(message: str) -> ApiError:
    return ApiError(Answer(401, error_body(message, "invalid_request_error")), is_saved=False)


def unknown_url(method: str, path: str) -> ApiError:
    message = (
        f"Unrecognized request URL ({method}: {path}). The simulator speaks what simulator/api/routes.py lists; "
        "an endpoint that is missing there has to be built before it can be called."
    )
    return ApiError(Answer(404, error_body(message, "invalid_request_error")), is_saved=False)


def internal_error(request_id: str) -> Answer:
    """500: a bug in the simulator, never a scripted fault. The log has the traceback under the request id."""
    message = f"The simulator itself failed; its log has the traceback under {request_id}."
    return Answer(500, error_body(message, "api_error"))
