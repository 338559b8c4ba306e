"""The forms of the HTTP API's answers, for its description. The bodies of requests stand beside their handlers."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from relay_wire.channels import MAX_NAME_LENGTH

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
Data = Annotated[dict[str, Any], Meta(description="Fields by name; values are any JSON.")]


class Position(msgspec.Struct):
    """Where an update stands in its channel, or where the channel stands."""

    epoch: Annotated[str, Meta(description="One uninterrupted history of the channel.")]
    offset: Annotated[int, Meta(ge=0, description="Counts the updates of an epoch from 1, without gaps.")]


class PublishedToTask(msgspec.Struct):
    """Redis has the update."""

    task_id: Name
    position: Position


class PublishedToChannel(msgspec.Struct):
    """Redis has the update."""

    channel: Name
    position: Position


class ItemError(msgspec.Struct):
    """Why an update of a batch was not published, or that this is unknown."""

    status: Annotated[int, Meta(ge=400, le=599)]
    code: str
    message: str


class ItemResult(msgspec.Struct):
    """What became of one update of a batch: it has a position, or an error."""

    task_id: Name | UnsetType = UNSET
    channel: Name | UnsetType | None = UNSET
    position: Position | UnsetType = UNSET
    error: ItemError | UnsetType = UNSET


class BatchResult(msgspec.Struct):
    """What became of the updates of a batch, in their order."""

    results: list[ItemResult]


class CancelRequested(msgspec.Struct):
    """The task's end was requested."""

    reason: str


class Task(msgspec.Struct):
    """A task: its state, and the position that this is the state of."""

    task_id: Name
    run: Annotated[int, Meta(ge=1, description="The how-manieth run of this id it is.")]
    position: Position
    data: Data
    owner: list[Name] | UnsetType = UNSET
    parent_id: Name | UnsetType = UNSET
    cancel_requested: CancelRequested | UnsetType = UNSET
    active: (
        Annotated[float, Meta(description="Its last activity, in seconds of the Unix epoch; in lists.")] | UnsetType
    ) = UNSET


class TaskPage(msgspec.Struct):
    """Some tasks, the most recently active first."""

    tasks: list[Task]
    next: Annotated[str | None, Meta(description="Send it as `after` for the next page; null at the end of the list.")]


class HistoryUpdate(msgspec.Struct):
    """One update of a history."""

    position: Position
    data: Data


class HistoryPage(msgspec.Struct):
    """A part of a task's history, the oldest update first."""

    task_id: Name
    position: Annotated[Position, Meta(description="The task's last position.")]
    next: Annotated[
        str | None, Meta(description="Send it as `since` for the next page; null at the end of the history.")
    ]
    updates: list[HistoryUpdate]


class CancelResult(msgspec.Struct):
    """What a request to cancel a task has come to. It was cancelled when its status says so."""

    task_id: Name
    outcome: Literal["cancel_requested", "ended_before"]


class RetryResult(msgspec.Struct):
    """The task is in the queue of its kind again. It runs when a worker takes it."""

    task_id: Name
    outcome: Literal["queued"]


class ShareLink(msgspec.Struct):
    """What a share link is made from: append `fragment` to the address of a page that watches the task."""

    task_id: Name
    token: Annotated[str, Meta(description="Who has it may watch the task. Send it as any other token.")]
    token_id: Annotated[str, Meta(description="Its `jti`, by which operators may revoke it.")]
    expires_at: Annotated[float, Meta(description="When it ends, in seconds of the Unix epoch.")]
    fragment: Annotated[str, Meta(description="`#share=` and the token. Browsers send no server what is behind a #.")]


class Ticket(msgspec.Struct):
    """Lets one client in: `?ticket=`."""

    ticket: str
    expires_in: Annotated[int, Meta(description="Seconds for which it can be used.")]


class Revoked(msgspec.Struct):
    """These tokens do not hold any longer, on any relay."""

    revoked: Annotated[dict[str, str], Meta(description="`sub` or `jti`, and its value.")]
    seconds: Annotated[float, Meta(description="How long this is remembered.")]


class Error(msgspec.Struct):
    """Why a request was not served, and what to do."""

    code: Annotated[str, Meta(description="A short name.")]
    message: Annotated[str, Meta(description="What is wrong, and what to do.")]
