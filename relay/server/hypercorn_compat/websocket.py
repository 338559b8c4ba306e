"""Hypercorn's WebSocket stream with Relay's reader: the same limits over TLS and HTTP/2 as on a hijacked socket."""

import math
from time import time
from typing import Any

import trio
from hypercorn.protocol.events import Body, Data, EndBody, EndData, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from wsproto.connection import Connection

from relay.core.closecodes import Close
from relay.protocols.connection import ServerConnection, break_cycle
from relay.protocols.deflate import MAX_OFFERS_LENGTH, negotiate
from relay.protocols.frames import ControlReply, FrameReader, PeerClosed, Received, Violation, close_frame
from relay.server.hypercorn_compat.stand_ins import HandshakeRecorder

#: Bytes kept that a client sends before its handshake is answered.
_MAX_EARLY = 64 * 1024


class RelayWSStream(WSStream):
    """A WebSocket stream that reads with Relay's reader, and keeps what comes before the handshake is answered.

    Stock Hypercorn inflates whole messages before it looks at their length, ends a connection that violates RFC 6455 without a
    close frame, and answers bytes that come too early with a 400 of its own, beside the app's answer; h11 then raises what
    nobody catches, and the whole server ends.

    Attributes:
        violation: How the client broke RFC 6455 or a limit. Where `reports_violations` is set the app is left to close the
            connection; otherwise that is done here.
        recorder: Keeps what the client sends to a connection that is being hijacked.
    """

    _early = b""
    _reader: FrameReader | None = None
    recorder: HandshakeRecorder | None = None
    _peer_closed: PeerClosed | None = None
    violation: Close | None = None
    reports_violations = False
    #: Limits how long a message that has begun may take.
    _in_message: trio.CancelScope | None = None

    async def handle(self, event: Any) -> None:
        if isinstance(event, StreamClosed):
            self._stop_timer()
        if isinstance(event, StreamClosed) and self._peer_closed is not None and not self.closed:
            self.closed = True
            await self._send_disconnect(self._peer_closed)
        elif (
            isinstance(event, EndBody) and self._reader is not None
        ):  # of HTTP/2: what is the end of the stream elsewhere
            await self.send(StreamClosed(stream_id=self.stream_id))
        elif not isinstance(event, Body | Data) or self.closed or not event.data:
            await super().handle(event)
        elif self._reader is not None:
            await self._read(event.data)
        elif self.recorder is not None:
            self.recorder.receive_data(event.data)
        elif self.state is ASGIWebsocketState.HANDSHAKE and len(self._early) + len(event.data) <= _MAX_EARLY:
            self._early += event.data
        else:
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def _accept(self, message: Any) -> None:
        limit = self.config.websocket_max_message_size
        offers = ", ".join(self.handshake.extensions or ())[: MAX_OFFERS_LENGTH + 1]
        agreed = negotiate(offers, limit)
        headers = list(message.get("headers", ()))
        if agreed is not None:
            headers.append((b"sec-websocket-extensions", agreed[1]))
        self.handshake.extensions = None  # which Hypercorn would negotiate itself
        answer: Any = self.handshake.accept(message.get("subprotocol"), headers)
        status, headers, accepted = answer
        if isinstance(accepted, Connection):
            break_cycle(accepted)
        connection = ServerConnection([] if agreed is None else [agreed[0]])
        early, self._early = self._early, b""
        if isinstance(accepted, HandshakeRecorder):
            accepted.connection = connection
            accepted.receive_data(early)
            self.recorder = accepted
            self.connection = accepted  # type: ignore[assignment] # all that Hypercorn does with it is to send
        else:
            self.connection = connection
            self._reader = FrameReader(limit, connection)
        self.state = ASGIWebsocketState.CONNECTED
        await self.send(Response(stream_id=self.stream_id, status_code=status, headers=headers))
        await self.config.log.access(self.scope, {"status": status, "headers": []}, time() - self.start_time)
        if self.config.websocket_ping_interval is not None:
            self.task_group.spawn(self._send_pings)
        if early and self._reader is not None:
            await self._read(early)

    async def _read(self, data: bytes) -> None:
        """Read frames of the client, and hand on what they say."""
        assert self._reader is not None
        assert self.app_put is not None
        for event in self._reader.receive(data):
            if isinstance(event, Received):
                self._stop_timer()
                text, binary = (event.message, None) if isinstance(event.message, str) else (None, event.message)
                await self.app_put({"type": "websocket.receive", "text": text, "bytes": binary})
            elif isinstance(event, ControlReply):
                await self.send(Data(stream_id=self.stream_id, data=event.frame))
            elif isinstance(event, Violation):
                await self._on_violation(event.close)
            elif isinstance(event, PeerClosed):
                if self.state is ASGIWebsocketState.CLOSED:  # the answer to a close frame of ours
                    await self.send(StreamClosed(stream_id=self.stream_id))
                else:
                    self.state = ASGIWebsocketState.CLOSED
                    self._peer_closed = event
                    await self._end(event.code, event.reason)

        if not self._reader.in_message:
            self._stop_timer()
        elif self._in_message is None and not self.closed:
            self._in_message = trio.CancelScope()
            self.task_group.spawn(self._time_message, self._in_message)

    async def _time_message(self, scope: trio.CancelScope) -> None:
        """Close the connection if the message that has begun is not complete in time; further bytes do not extend it."""
        with scope:
            await trio.sleep(getattr(self.config, "relay_message_timeout", math.inf))
        if self._in_message is scope and self._reader is not None:
            self._in_message = None
            self._reader.close()
            await self._on_violation(Close.MESSAGE_TIMEOUT)

    def _stop_timer(self) -> None:
        scope, self._in_message = self._in_message, None
        if scope is not None:
            scope.cancel()

    async def _on_violation(self, close: Close) -> None:
        assert self.app_put is not None
        self.violation = close
        if self.reports_violations:
            await self.app_put({"type": "websocket.receive", "text": None, "bytes": b""})
        else:
            await self._end(close.code, close.reason)

    async def _send_disconnect(self, event: PeerClosed) -> None:
        if self.app_put is not None:
            await self.app_put({"type": "websocket.disconnect", "code": event.code, "reason": event.reason})

    async def _send_error_response(self, status_code: int) -> None:
        await super()._send_error_response(status_code)
        # It says "connection: close", and stock Hypercorn waits for the client to do so.
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _end(self, code: int, reason: str) -> None:
        await self.send(Data(stream_id=self.stream_id, data=close_frame(code, reason)))
        await self.send(EndData(stream_id=self.stream_id))
        await self.send(StreamClosed(stream_id=self.stream_id))
