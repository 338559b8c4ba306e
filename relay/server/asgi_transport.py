"""The transport of a client whose socket is out of reach: over TLS, over HTTP/2, and behind another server."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from relay.core.batches import Batch, Framing
from relay.core.closecodes import Close
from relay.core.send_queue import SendQueue
from relay.protocols.base import Farewell
from relay.protocols.frames import Event, PeerClosed, Received, Violation

#: Seconds that a client behind the ASGI server has to answer a close frame, and messages that it may have sent before.
_LINGER = 1.0
_LINGER_MESSAGES = 64

#: An empty text stands for a ping.
_HEARTBEAT = Batch(("",), 0, 1)


class AsgiTransport:
    """A client behind the ASGI server. It behaves like a `SocketTransport`, but is slower.

    Args:
        receive: The connection's ASGI ``receive``.
        send: The connection's ASGI ``send``.
        max_message: Longest message in bytes; the server has a limit of its own before it.
        ping_via: Sends a WebSocket ping, where the server can be asked to.
        abort_via: Closes the connection under the server, where that is possible. Without it a client that stops reading is
            held until the server drops it. After the closing handshake has begun on either side the server closes the
            connection: a reset might overtake the close frame.
        violation: Returns how the client broke RFC 6455 or a limit, where the server notices that.
    """

    __slots__ = (
        "_abort_via",
        "_is_writing",
        "_max_message",
        "_ping_via",
        "_receive",
        "_send",
        "_violation",
        "bytes_received",
        "frames_received",
    )

    name = "asgi"
    framing = Framing(bytes.decode, tuple)
    write = None
    direct = None

    def __init__(
        self,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
        max_message: int,
        ping_via: Callable[[], Awaitable[None]] | None,
        abort_via: Callable[[], None] | None,
        violation: Callable[[], Close | None] = lambda: None,
    ) -> None:
        self._receive = receive
        self._send = send
        self._max_message = max_message
        self._ping_via = ping_via
        self._abort_via = abort_via
        self._violation = violation
        self._is_writing = False
        self.bytes_received = 0
        self.frames_received = 0

    async def drain(self, queue: SendQueue) -> None:
        self._is_writing = True
        while queue:
            # Counted message by message, so that closing in the middle of a batch does not send the first ones again.
            for message in queue.head().chunk[queue.written :]:
                if message:
                    kind = "text" if isinstance(message, str) else "bytes"
                    await self._send({"type": "websocket.send", kind: message})
                elif self._ping_via is not None:
                    await self._ping_via()
                queue.written += 1
            queue.pop()
        self._is_writing = False

    async def receive(self, timeout: float = math.inf) -> list[Event]:  # noqa: ARG002 - the server assembles messages
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            if not self._is_writing:
                self._abort_via = None
            return [PeerClosed(message.get("code") or 1005)]
        violation = self._violation()
        if violation is not None:
            return [Violation(violation)]
        content = message.get("text")
        if content is None:
            content = message["bytes"]
        size = len(content.encode()) if isinstance(content, str) else len(content)
        self.bytes_received += size
        self.frames_received += 1
        return [Violation(Close.TOO_BIG) if size > self._max_message else Received(content)]

    def heartbeat(self) -> Batch | None:
        return None if self._ping_via is None else _HEARTBEAT

    async def close(self, queue: SendQueue, close: Close, farewell: Farewell) -> None:
        if close in (Close.ABNORMAL_CLOSURE, Close.NORMAL):
            return
        if close.discards_queue:
            queue.clear()
        await self.drain(queue)
        await self._send({"type": "websocket.close", "code": farewell.code, "reason": farewell.reason})
        if close.is_slow:  # it may not read that either
            return
        # Until the client has answered: a server that closes at once may reset the connection, and the frame may be lost.
        with trio.move_on_after(_LINGER):
            for _ in range(_LINGER_MESSAGES):
                if (await self._receive())["type"] == "websocket.disconnect":
                    break
        self._abort_via = None

    def abort(self) -> None:
        abort_via, self._abort_via = self._abort_via, None
        if abort_via is not None:
            abort_via()


class BinaryAsgiTransport(AsgiTransport):
    """The same, for a protocol whose payloads are bytes."""

    __slots__ = ()

    framing = Framing(bytes, tuple)
