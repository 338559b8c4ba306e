"""What travels through Relay: an update, and its position in its channel."""

from typing import NamedTuple

import msgspec


class Position(NamedTuple):
    """Where an update stands in its channel.

    ``offset`` counts from 1 without holes within one ``epoch``; a new epoch means that the channel's history was lost.
    """

    epoch: str
    offset: int


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
