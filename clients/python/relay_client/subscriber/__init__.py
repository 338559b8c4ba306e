"""Follow tasks and general updates over a relay's ``/ws/tasks``, from Trio, asyncio or plain threads.

`relay_client.trio.subscribe`, `relay_client.aio.subscribe` and `relay_client.subscribe` take the same arguments. This package
exports what all three share. The parts, from the inside out:

    update, errors, limits      what the caller sees
    channel_state, update_queue one channel; the updates that wait for the consumer
    subscriptions, reconnect,   decisions: what to request, what to believe, when to connect again
      heartbeat
    websocket                   the WebSocket protocol, bytes in and bytes out
    runtime                     the few primitives that differ between event loops
    connection, supervisor      one connection; a connection kept up
    subscription                what `subscribe` opens, for every event loop
    trio, aio, threads          thin faces
"""

from relay_wire.position import Position

from relay_client.subscriber.errors import (
    RelayRefused,
    RelayUnreachable,
    SubscriptionClosed,
    SubscriptionError,
    SubscriptionRefused,
)
from relay_client.subscriber.limits import ConnectionChange, Limits
from relay_client.subscriber.update import Update

__all__ = [
    "ConnectionChange",
    "Limits",
    "Position",
    "RelayRefused",
    "RelayUnreachable",
    "SubscriptionClosed",
    "SubscriptionError",
    "SubscriptionRefused",
    "Update",
]
