"""The unit that travels through Relay: an update, and its position in its channel."""

import msgspec
from relay_wire.creation import NO_OPTIONS, CreationOptions
from relay_wire.position import Position

__all__ = ["Position", "Update"]


class Update(msgspec.Struct, frozen=True, gc=False):
    """One update on its way to the clients.

    Attributes:
        channel: Relay's channel name, see `relay.core.channels`.
        type: The message's type as clients see it, such as ``task_update``.
        data: Raw JSON as the publisher sent it; for operator-named channels the whole message.
        received_at: When this relay received it, in seconds of the monotonic clock.
        position: Where it stands in its channel; None if Redis did not persist it.
        has_operations: There are operations among its fields, see `relay.core.field_operations`.
        options: On its way to Redis: the owner and the parent that its publisher gives the task.
        trace: On its way to Redis: its trace context, see `relay.traces`; empty where it is no part of a trace.
    """

    channel: str
    type: str
    data: bytes
    received_at: float
    position: Position | None = None
    has_operations: bool = False
    options: CreationOptions = NO_OPTIONS
    trace: str = ""
