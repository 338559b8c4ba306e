"""Requests to cancel a task: a field of its numbers in Redis, and a message to the workers.

A request writes the field and publishes the message, in one script. A worker reads the field when it begins a task,
and again whenever it has connected; in between it receives the messages. So no request is missed.
"""

import json
from typing import Any

from relay_wire import keys, scripts
from relay_wire.channels import TASK_PREFIX
from relay_wire.publications import ScriptCall, to_text

#: The field of a task's numbers that holds the reason; it goes when the task's id begins a new life.
FIELD = "cancel"

#: Longest reason, in characters.
MAX_REASON_LENGTH = 500

#: What a request has come to.
REQUESTED, ENDED, UNKNOWN = "requested", "ended", "unknown"


def cancel_call(task_id: str, reason: str) -> ScriptCall:
    """Return a call that requests a task's end; it may be repeated. `read_outcome` reads its answer.

    Args:
        task_id: The task.
        reason: For the worker's log; may be empty.
    """
    channel = TASK_PREFIX + task_id
    message = json.dumps({"task_id": task_id, "reason": reason}, separators=(",", ":"))
    return ScriptCall(scripts.load("cancel"), [keys.meta(channel), keys.state(channel)], [keys.CANCEL, message, reason])


def read_outcome(answer: Any) -> str:
    """Return `REQUESTED`, `ENDED` (the task had ended before) or `UNKNOWN` (there is no such task).

    Raises:
        ValueError: The answer is none of these. So do TypeError and UnicodeDecodeError.
    """
    outcome = to_text(answer)
    if outcome not in (REQUESTED, ENDED, UNKNOWN):
        raise ValueError(f"not an answer of the cancel script: {outcome!r:.80}")
    return outcome


def read_message(message: Any) -> tuple[str, str] | None:
    """Return the task and the reason of a request, decoded from JSON; None if it is none: anyone may publish there."""
    if not isinstance(message, dict):
        return None
    task_id, reason = message.get("task_id"), message.get("reason", "")
    return (task_id, reason) if isinstance(task_id, str) and isinstance(reason, str) else None
