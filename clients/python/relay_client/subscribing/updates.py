"""What a subscriber gets, and what may go wrong for good.

    SubscriptionError           a subscription has ended, and why; subscribe anew once the reason is gone
    +-- SubscriptionRefused     the relay does not serve what was asked for
    +-- RelayRefused            the relay, or what stands before it, does not let us in, or told us not to come back
    +-- RelayUnreachable        there was no connection for `Limits.give_up_after` seconds

Everything else, connections that break and relays that restart among them, is mended without a word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from relay_wire.position import Position
from relay_wire.statuses import TERMINAL

__all__ = [
    "Position",
    "RelayRefused",
    "RelayUnreachable",
    "SubscriptionError",
    "SubscriptionRefused",
    "Update",
]

#: Those of the relay's messages, and what says that some are missing.
UpdateType = Literal["task_update", "general_update", "reset"]


class SubscriptionError(Exception):
    """A subscription has ended for good."""


class SubscriptionRefused(SubscriptionError):
    """The relay does not serve a channel. ``code`` is one of docs/protocol.md; ``channel`` is None where it is not known."""

    def __init__(self, code: str, message: str, channel: str | None) -> None:
        super().__init__(f"the relay refused {channel or 'a message'}: {message} ({code})")
        self.code = code
        self.channel = channel


class RelayRefused(SubscriptionError):
    """No use in coming back. ``code`` is the WebSocket close code or the HTTP status, None where there was neither."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class RelayUnreachable(SubscriptionError):
    """There was no connection for as long as one was willing to try."""


@dataclass(frozen=True, slots=True)
class Update:
    """One update of a task, or a general one, or the news that some were lost.

    channel:  ``task:<id>`` or ``general``
    type:     ``task_update``, ``general_update``; or ``reset`` when the relay could not resume: updates may be missing, `state`
              begins anew, and the relay's own state of the task follows as the next update, if there is one
    data:     the fields as they were sent; several updates come as one when the relay had to fold them
    state:    of a task: all fields so far, later ones over earlier ones. Not to be changed: the next one is made from it
    position: to resume from, with `state`, after this update; None for one that Redis did not record, and where a reset
              stands the relay's position
    text:     the relay's message
    is_state: ``data`` is the folded state, which a task's new follower gets first
    """

    channel: str
    type: UpdateType
    data: Mapping[str, Any]
    state: Mapping[str, Any]
    position: Position | None
    text: str
    is_state: bool = False

    @property
    def task_id(self) -> str | None:
        """The task's id; None for general updates."""
        kind, _, task_id = self.channel.partition(":")
        return task_id if kind == "task" else None

    @property
    def is_reset(self) -> bool:
        """Updates may be missing before this."""
        return self.type == "reset"

    @property
    def is_terminal(self) -> bool:
        """The task has ended with this update, or had ended before."""
        status = self.state.get("status")
        return isinstance(status, str) and status in TERMINAL
