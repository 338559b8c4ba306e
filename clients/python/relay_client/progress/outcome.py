"""How tasks end: errors and cancellations as a status and fields, in a form that can always be published."""

from typing import Any

from relay_wire.statuses import CANCELLED, COMPLETED, FAILED

from relay_client.progress.values import utc_now_iso

#: Longest text of an error that is published, in characters.
_MAX_ERROR_LENGTH = 2000


class TaskCancelled(Exception):
    """Raise it to end a task as cancelled. A task whose cancellation was requested raises it where it next reports."""


def error_text(error: BaseException) -> str:
    """Return an error as a task's field ``error``."""
    text = safe_str(error)
    return f"{type(error).__name__}: {text}"[:_MAX_ERROR_LENGTH] if text else type(error).__name__


def safe_str(error: BaseException) -> str:
    """Return the text of an error, cut where it is long: always text that can be published."""
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001 - other people's code
        text = f"(its text cannot be read: {type(failure).__name__})"
    return text[:_MAX_ERROR_LENGTH].encode(errors="backslashreplace").decode()


def outcome(error: BaseException | None) -> tuple[str, dict[str, Any]]:
    """Return the status of a task that ended with an error, or with none, and the fields that go with it, but for the time."""
    if error is None:
        return COMPLETED, {"progress": 100}
    if _has_failed(error):
        return FAILED, {"error": error_text(error)}
    return CANCELLED, {}


def terminal_fields(error: BaseException | None) -> tuple[str, dict[str, Any]]:
    """Return the status and the last fields of a task that has just ended with an error, or with none."""
    status, fields = outcome(error)
    return status, {**fields, "completed_at": utc_now_iso()}


def _has_failed(error: BaseException) -> bool:
    """Tell an error from a cancellation: KeyboardInterrupt and the event loops' Cancelled are no Exceptions."""
    if isinstance(error, BaseExceptionGroup):
        return any(_has_failed(each) for each in error.exceptions)
    return isinstance(error, Exception) and not isinstance(error, TaskCancelled)
