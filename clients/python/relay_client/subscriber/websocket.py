"""The client's side of one WebSocket (RFC 6455), without I/O: bytes in, messages and bytes out.

wsproto takes frames apart. This adds what a subscriber needs beyond it: whole messages with a bound, one pong for any number of
pings, and distinguishing a close frame of the other side from a violation that wsproto itself has found.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

try:
    import h11
    from wsproto import ConnectionType, WSConnection
except ImportError as error:
    raise ImportError("subscribing needs another package: pip install 'trio-relay-client[websocket]'") from error
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

NORMAL_CLOSURE = 1000
_UNSUPPORTED_DATA = 1003
_HINT = re.compile(r"; retry after (\d{1,6}(?:\.\d{1,6})?) s$")
MESSAGE_TOO_BIG = 1009


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a WebSocket is no longer open, or was never opened.

    Attributes:
        why: The reason, for people.
        code: The close code that the other side sent, or `MESSAGE_TOO_BIG` if its message was. None for all other violations:
            what is garbled on the way is no decision of the relay.
        status: The HTTP status of a rejected handshake.
        retry_after: The seconds of its header Retry-After, or of the hint in the reason of a close frame; 0 without one.
    """

    why: str
    code: int | None = None
    status: int | None = None
    retry_after: float = 0.0


class WebSocket:
    """One WebSocket of a client.

    Args:
        host: The ``Host`` header.
        resource: Path and query.
        headers: Further headers of the handshake.
        max_message: Longest message that is accepted, in characters.

    Raises:
        ValueError: The host, the resource or a header cannot be sent.

    Attributes:
        is_open: The handshake has succeeded; messages may be sent.
        ended: Why it is no longer open; None as long as there may be further messages.
    """

    def __init__(self, host: str, resource: str, headers: Iterable[tuple[bytes, bytes]], max_message: int) -> None:
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._max_message = max_message
        self._events: Iterator[Event] = iter(())
        self._parts: list[str] = []
        self._size = 0
        self._pong: Ping | None = None
        self._outgoing: list[bytes] = []
        self._is_closing = False
        self.is_open = False
        self.ended: Closed | None = None
        try:
            self._outgoing.append(
                self._connection.send(Request(host=host, target=resource, extra_headers=list(headers)))
            )
        except (LocalProtocolError, h11.LocalProtocolError, UnicodeError) as error:
            raise ValueError(f"the relay's URL or a header cannot be sent over HTTP: {error}") from error

    def data_to_send(self) -> bytes:
        """Return the bytes to send now, each once."""
        if self._pong is not None and self._connection.state is ConnectionState.OPEN:
            self._outgoing.append(self._connection.send(self._pong.response()))
        self._pong = None
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def send_text(self, text: str) -> None:
        """Send a message. No effect once the WebSocket is closing."""
        if self._connection.state is ConnectionState.OPEN:
            self._outgoing.append(self._connection.send(TextMessage(text)))

    def close(self, code: int = NORMAL_CLOSURE) -> None:
        """Start the closing handshake. Messages that arrive meanwhile are dropped; `ended` is set when it is complete."""
        if self.is_open and self.ended is None and not self._is_closing:
            self._is_closing = True
            self._outgoing.append(self._connection.send(CloseConnection(code=code)))

    def receive_data(self, data: bytes) -> None:
        """Take bytes. Call `next_message` afterwards, until it returns None."""
        if self.ended is not None:
            return
        try:
            self._connection.receive_data(data)
        except (RemoteProtocolError, UnicodeError, ValueError) as error:
            self.ended = Closed(f"the handshake was not answered by a WebSocket server: {error}")
            return
        self._events = self._connection.events()
        if not self.is_open and (event := next(self._events, None)) is not None:
            self._handle(event)  # the outcome of the handshake: messages come behind it

    def next_message(self) -> str | None:
        """Return the next complete message. None if more bytes are needed, and when the WebSocket has ended."""
        while self.ended is None:
            event = next(self._events, None)
            if event is None:
                return None
            message = self._handle(event)
            if message is not None and not self._is_closing:
                return message
        return None

    def _handle(self, event: Event) -> str | None:
        match event:
            case TextMessage(data=data, message_finished=is_complete):
                return self._on_text(data, is_complete)
            case Ping():
                self._pong = event
            case AcceptConnection():
                self.is_open = True
            case RejectConnection(status_code=status, headers=headers):
                why = f"the handshake was answered with HTTP status {status}"
                self.ended = Closed(why, status=status, retry_after=_retry_after(headers))
            case CloseConnection(code=code, reason=reason):
                self._on_close(code, reason or "")
            case BytesMessage():
                self._violated("a binary message", _UNSUPPORTED_DATA)
        return None

    def _on_text(self, data: str, is_complete: bool) -> str | None:
        self._size += len(data)
        if self._size > self._max_message:
            what = f"a message of more than {self._max_message} characters (`Limits.max_message`)"
            self._violated(what, MESSAGE_TOO_BIG)
            self.ended = Closed(what, MESSAGE_TOO_BIG)
            return None
        if data:
            self._parts.append(data)
        if not is_complete:
            return None
        message = "".join(self._parts)
        self._parts.clear()
        self._size = 0
        return message

    def _on_close(self, code: int, reason: str) -> None:
        if self._connection.state is ConnectionState.OPEN:
            # wsproto reports a violation that it finds as if the other side had closed with that code.
            self._violated(reason, code)
            return
        if self._connection.state is ConnectionState.REMOTE_CLOSING:
            self._outgoing.append(self._connection.send(CloseConnection(code=code)))
        reason = reason or getattr(code, "name", "")  # wsproto has names for the registered codes
        why, retry_after = f"closed: {int(code)} {reason}".rstrip(), _read_retry_after(reason)
        self.ended = Closed(why, int(code), retry_after=retry_after)

    def _violated(self, what: str, code: int) -> None:
        """End it for something that the other side must not send."""
        if self._connection.state is ConnectionState.OPEN:
            self._outgoing.append(self._connection.send(CloseConnection(code=code)))
        self.ended = Closed(f"WebSocket protocol error: {what}")


def _read_retry_after(reason: str) -> float:
    """Return the seconds that a relay which shuts down asks for, in the reason of its close frame."""
    hint = _HINT.search(reason)
    return float(hint[1]) if hint is not None else 0.0


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """Return the seconds of a header Retry-After. One with a date, which Relay never sends, counts as none."""
    value = next((value for name, value in headers if name.lower() == b"retry-after"), b"")
    return float(value) if value.isdigit() and len(value) < 10 else 0.0
