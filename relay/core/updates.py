"""What travels through Relay: an update, and its position in its channel."""

import msgspec
from relay_wire.position import Position

__all__ = ["Position", "Update"]


class Update(msgspec.Struct, frozen=True, gc=False):
    """One update on its way to the clients.

    channel:  Relay's channel name, see `relay.core.channels`
    type:     the message's type as clients see it, such as ``task_update``
    data:     raw JSON, as the publisher sent it; for operator-named channels the whole message
    heard:    when this relay heard it, in seconds of the monotonic clock
    position: None for an update that Redis did not record
    """

    channel: str
    type: str
    data: bytes
    heard: float
    position: Position | None = None
