"""One update, as the consumer of a subscription gets it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from relay_wire.position import Position
from relay_wire.statuses import TERMINAL

#: The relay's message types, and one of our own that says that updates may be missing.
UpdateType = Literal["task_update", "general_update", "task_states", "reset"]


@dataclass(frozen=True, slots=True)
class Update:
    """One update of a task, a general update, or a notice that updates may be missing.

    Attributes:
        channel: ``task:<id>`` or ``general``.
        type: ``task_update``, ``general_update``, or ``reset``: the relay could not resume, updates may be missing, and `state`
            starts empty. If the task has a state, it follows as the next update.
        data: The fields as published; of a field that grows, an operation such as ``{"$append": "more"}``. A slow consumer may
            get several updates of a task merged into one. Of a general update, whatever JSON value was published: an object,
            unless a service publishes in an old form (docs/protocol.md).
        state: All fields of the task so far, later values over earlier ones. Do not modify it: the next one is built from it.
        position: Where to resume after this update, together with `state`. None if Redis did not persist the update. For a
            ``reset``, the relay's current position.
        text: The relay's message, as received.
        is_state: `data` is the folded state, which a new subscriber of a task gets first.
        member: In a subscription to a task with its children (``family:<id>``), the id of the task that the update is of. None
            for ``task_states``: `state` then has the states of all of them by their ids.
        traceparent: Where the update is a part of a trace, and the program exports spans: the context of its ``relay receive``
            span, in the form of W3C Trace Context.
    """

    channel: str
    type: UpdateType
    data: Any
    state: Mapping[str, Any]
    position: Position | None
    text: str
    is_state: bool = False
    member: str | None = None
    traceparent: str | None = None

    @property
    def task_id(self) -> str | None:
        """The id of the task, None for general updates and for the states of several tasks."""
        if self.member is not None:
            return self.member
        kind, _, task_id = self.channel.partition(":")
        return task_id if kind == "task" else None

    @property
    def is_reset(self) -> bool:
        """Whether updates may be missing before this one."""
        return self.type == "reset"

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended, with this update or before it."""
        status = self.state.get("status")
        return isinstance(status, str) and status in TERMINAL
