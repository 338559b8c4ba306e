"""HTTP within limits: heads of requests, HTTP/2 only with TLS unless the app allows it, and no floods of control frames."""

from typing import Any

import h2.events
import h11
import trio
from h2.errors import ErrorCodes
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol

from relay.protocols.handshake import has_too_many_lines

#: Control frames of HTTP/2 that a client may send at once, in a second, and for each DATA frame of ours.
_CONTROL_BURST = 1000.0
_CONTROL_RATE = 100.0
_CONTROL_PER_DATA = 4.0

_CONTROL_EVENTS = (
    h2.events.RemoteSettingsChanged,
    h2.events.SettingsAcknowledged,
    h2.events.PingReceived,
    h2.events.PingAckReceived,
    h2.events.WindowUpdated,
    h2.events.PriorityUpdated,
    h2.events.StreamReset,
)

#: Bytes of HTTP/2 that are parsed at once: some hundred control frames.
_H2_CHUNK = 1024


class _BoundedHeads(h11.Connection):
    """Refuses a request with thousands of headers before it is parsed, which would take milliseconds."""

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE and has_too_many_lines(self.trailing_data[0]):
            raise h11.RemoteProtocolError("too many headers", error_status_hint=431)
        return super().next_event()


class H11WithoutH2C(H11Protocol):
    """Does not change to HTTP/2 without TLS, unless the app that is served allows it, and takes no heads without bounds."""

    _is_refused = False

    async def initiate(self) -> None:
        self.connection = _BoundedHeads(h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size)

    async def _check_protocol(self, event: h11.Request) -> None:
        names = {name for name, _ in event.headers}
        if b"content-length" in names and b"transfer-encoding" in names:
            # Two lengths of one body: a proxy may have believed the other one (RFC 9112 section 6.1).
            self._is_refused = True
            await self._send_error_response(400)
            await self.send(Closed())
        elif getattr(self.config, "relay_allows_cleartext_http2", True):
            await super()._check_protocol(event)
        elif event.method == b"PRI":
            self._is_refused = True
            await self._send_error_response(505)
            await self.send(Closed())

    async def _create_stream(self, request: h11.Request) -> None:
        if not self._is_refused:
            await super()._create_stream(request)


class BoundedH2Protocol(H2Protocol):
    """Ends a connection whose control frames cost more than it may: SETTINGS, PING, WINDOW_UPDATE, PRIORITY, RST_STREAM.

    Each takes a token from a bucket that fills with time, and with the data that we send, which a client answers by
    WINDOW_UPDATE.
    """

    _tokens: float = _CONTROL_BURST
    _filled_at = 0.0

    async def handle(self, event: Any) -> None:
        if not isinstance(event, RawData):
            await super().handle(event)
            return
        # In small pieces, so that a flood is noticed before all of it was parsed, and others have their turn.
        for start in range(0, len(event.data), _H2_CHUNK):
            if self.closed:
                return
            await super().handle(RawData(event.data[start : start + _H2_CHUNK]))
            if self._tokens < 0:
                self.connection.close_connection(error_code=ErrorCodes.ENHANCE_YOUR_CALM)
                await self._flush()
                await self.send(Closed())
                return
            await trio.lowlevel.checkpoint()
        if not event.data:
            await super().handle(event)

    async def _handle_events(self, events: Any) -> None:
        now = trio.current_time()
        self._tokens = min(_CONTROL_BURST, self._tokens + (now - self._filled_at) * _CONTROL_RATE)
        self._filled_at = now
        self._tokens -= sum(isinstance(event, _CONTROL_EVENTS) for event in events)
        if self._tokens >= 0:
            await super()._handle_events(events)

    async def _send_data(self, stream_id: int) -> None:
        self._tokens = min(_CONTROL_BURST, self._tokens + _CONTROL_PER_DATA)
        await super()._send_data(stream_id)
