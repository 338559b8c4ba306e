"""The long answers of Centrifuge clients without WebSockets: events or lines, while their messages come as requests."""

from collections.abc import Callable
from typing import Any

import trio

from relay.core.batches import Batch, Framing
from relay.core.closecodes import Close
from relay.core.send_queue import SendQueue
from relay.protocols.base import Farewell
from relay.protocols.frames import Event
from relay.server.emulation import Inbox
from relay.server.sse_endpoint import EventAsgiTransport, EventSocketTransport, chunk

#: Makes what is sent of a payload.
Form = Callable[[bytes], bytes]

#: The protocol has one of its own.
_NO_HEARTBEAT = Batch(b"", 0, 0)


def event(payload: bytes) -> bytes:
    """Return a payload, which has no line breaks, as a server-sent event."""
    return b"data: %b\n\n" % payload


def line(payload: bytes) -> bytes:
    """Return a payload as a line."""
    return payload + b"\n"


class EmulatedSocketTransport(EventSocketTransport):
    """A client's long answer on a hijacked socket."""

    __slots__ = ("_form", "_inbox", "framing")

    def __init__(self, sock: Any, dead_peer_timeout: float, form: Form, inbox: Inbox) -> None:
        super().__init__(sock, dead_peer_timeout)
        self._form = form
        self._inbox = inbox
        self.framing = FRAMINGS[form, True]

    @property
    def direct(self) -> None:
        return None  # messages come by requests of their own

    @property
    def frames_received(self) -> int:
        return self._inbox.frames

    async def receive(self, timeout: float = 0) -> list[Event]:  # noqa: ARG002 - messages come whole
        events = await self._inbox.receive_or(super().receive)
        self.bytes_received = self._inbox.size
        return events

    def heartbeat(self) -> Batch:
        return _NO_HEARTBEAT

    def _enqueue_close_frame(self, queue: SendQueue, close: Close, farewell: Farewell) -> None:
        if close.is_slow:
            raise trio.BrokenResourceError("a slow client's stream is broken off")
        if close.discards_queue:
            queue.clear()
        ending = chunk(self._form(farewell.payload)) + b"0\r\n\r\n"
        queue.push(Batch(ending, 0, len(ending)), 0)


class EmulatedAsgiTransport(EventAsgiTransport):
    """A client's long answer behind the ASGI server."""

    __slots__ = ("_form", "_inbox", "framing")

    def __init__(self, receive: Any, send: Any, abort_via: Any, form: Form, inbox: Inbox) -> None:
        super().__init__(receive, send, 0, None, abort_via)
        self._form = form
        self._inbox = inbox
        self.framing = FRAMINGS[form, False]

    async def receive(self, timeout: float = 0) -> list[Event]:  # noqa: ARG002 - messages come whole
        events = await self._inbox.receive_or(super().receive)
        self.bytes_received, self.frames_received = self._inbox.size, self._inbox.frames
        return events

    def heartbeat(self) -> Batch | None:
        return None

    def _last_body(self, farewell: Farewell) -> bytes:
        return self._form(farewell.payload)


def _framing(form: Form, *, on_socket: bool) -> Framing:
    def frame(payload: bytes) -> bytes:
        formed = form(payload) if payload else b""
        return chunk(formed) if on_socket else formed

    return Framing(frame, b"".join if on_socket else tuple)


#: One framing for all clients of a form and a kind of transport.
FRAMINGS: dict[tuple[Form, bool], Framing] = {
    (form, on_socket): _framing(form, on_socket=on_socket) for form in (event, line) for on_socket in (True, False)
}
