"""Stand-ins for three of Hypercorn's objects, with which its tasks for a hijacked connection end by themselves.

Hypercorn's nursery must never be cancelled: `TaskGroup.__aexit__` would leak the `Cancelled` and stop the whole server.
"""

from collections.abc import Iterator
from typing import Any

import h11
import trio
from wsproto.connection import ConnectionState
from wsproto.utilities import LocalProtocolError

from relay.protocols.connection import ServerConnection


class HandshakeRecorder:
    """Stands in for Hypercorn's wsproto connection from the 101 on, and keeps what the client sends.

    Attributes:
        connection: The connection with what was negotiated.
        received: What the client has sent since.
        state: As wsproto has it.
        is_hijacked: Nothing of Hypercorn's may be sent any more.
    """

    __slots__ = ("connection", "is_hijacked", "received", "state")

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.received = bytearray()
        self.state = ConnectionState.OPEN
        self.is_hijacked = False

    def receive_data(self, data: bytes) -> None:
        """Keep bytes of the client."""
        self.received += data

    def events(self) -> Iterator[Any]:
        """Nothing happens for Hypercorn any more."""
        return iter(())

    def send(self, event: Any) -> bytes:
        """Return the frame of an event. Once hijacked, refuse as Hypercorn expects of a connection that is closing."""
        if not self.is_hijacked:
            return self.connection.send(event)
        raise LocalProtocolError(f"{event} cannot be sent: this connection was hijacked")


class NullStream:
    """Stands in for Hypercorn's stream after the hijack. It must neither write nor shut down what is ours now."""

    async def send_all(self, data: bytes) -> None:  # noqa: ARG002 - as a stream has it
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - as a stream has it
        await trio.lowlevel.checkpoint()
        raise trio.ClosedResourceError("this connection was hijacked")

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class ExhaustedH11:
    """Stands in for Hypercorn's h11 connection, whose reader waits for the response to end: there is no more to read."""

    our_state = None
    they_are_waiting_for_100_continue = False

    def next_event(self) -> Any:
        return h11.NEED_DATA

    def receive_data(self, data: bytes) -> None:
        """Nothing is expected after the request."""

    def send(self, event: Any) -> bytes:  # noqa: ARG002 - as h11 has it
        return b""
