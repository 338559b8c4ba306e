"""Errors as the HTTP API answers them: a status, a code, and a sentence that says what to do."""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from quart import Response, has_request_context, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from relay.core.errors import (
    BadMessage,
    BrokerBusy,
    BrokerError,
    BrokerRefused,
    Forbidden,
    RelayError,
    StateTooLarge,
    Unauthenticated,
    Unverified,
    UpdateConflict,
)
from relay.server.api_responses import error_response
from relay.server.task_paths import TaskPaths

#: Errors of the relay that have an answer of their own. Any other is a bug, and answered with 500.
_ANSWERED = (BrokerError, BadMessage, Unauthenticated, Unverified, Forbidden)


class Refused(BadMessage):
    """A request cannot be served as it is, for another reason than its form.

    Attributes:
        status: The HTTP status of the answer.
        retry_after: Seconds after which the same request may succeed; None where it will not.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.status = status
        self.retry_after = retry_after


class Failure(NamedTuple):
    """Why a request, or a part of one, was not served.

    Attributes:
        status: The HTTP status.
        code: A short name for clients.
        message: What is wrong, and what to do.
        retry_after: Seconds after which the same request may succeed; None where it will not.
    """

    status: int
    code: str
    message: str
    retry_after: float | None = None


def failure_of(error: RelayError) -> Failure:
    """Return an error of the relay as clients are to see it. Raises the error itself if it is a bug."""
    match error:
        case Refused():
            return Failure(error.status, error.code, error.message, error.retry_after)
        case BadMessage():
            return Failure(400, error.code, error.message)
        case Unauthenticated():
            return Failure(401, error.code, error.message)
        case Unverified():
            return Failure(503, error.code, error.message, error.retry_after)
        case Forbidden():
            return Failure(403, error.code, error.message)
        case StateTooLarge():
            return Failure(422, "state_too_large", str(error))
        case UpdateConflict():
            return Failure(422 if error.code == "idempotency_key_reused" else 409, error.code, error.public_message)
        case BrokerBusy():
            return Failure(503, "unavailable", error.public_message, error.retry_after)
        case BrokerRefused() if error.is_out_of_memory:
            return Failure(503, "out_of_memory", "Redis has no memory left, and nothing was published; try later", 5.0)
        case BrokerError():
            return Failure(503, "unavailable", error.public_message, 1.0)
    raise error


def failure_response(failure: Failure) -> Response:
    """Return the response to a request that was not served."""
    headers = {"www-authenticate": "Bearer"} if failure.status == 401 else {}
    if failure.retry_after is not None:
        headers["retry-after"] = str(max(1, ceil(failure.retry_after)))
    return error_response(failure.status, failure.code, failure.message, headers)


def add_error_handlers(app: QuartTrio, paths: TaskPaths, on_failure: Callable[[int, str, str], None]) -> None:
    """Have an app answer the errors that its handlers raise.

    Args:
        app: The app.
        paths: The paths of the API.
        on_failure: Called within a request that fails, with the status, the code and the message of the answer.
    """

    async def answered(error: RelayError) -> Response:
        failure = failure_of(error)
        on_failure(failure.status, failure.code, failure.message)
        return failure_response(failure)

    for kind in _ANSWERED:
        app.register_error_handler(kind, answered)

    @app.errorhandler(HTTPException)
    async def refused(error: HTTPException) -> Response | HTTPException:
        if not has_request_context() or not request.path.startswith(paths.prefix):  # of a WebSocket, or another route
            return error
        status = error.code or 500
        name = (error.name or "error").lower().replace(" ", "_")
        if isinstance(error, MethodNotAllowed):
            allowed = ", ".join(sorted(error.valid_methods or ()))
            return error_response(status, name, f"this path takes {allowed}", {"allow": allowed})
        return error_response(status, name, error.description or "")
