"""What a session answers to its client's messages, and how it ends one that goes too far."""

from collections.abc import Iterable

from relay.core.batches import Encoding, Format, batch_of, format_of
from relay.core.closecodes import Close
from relay.core.errors import Unauthenticated
from relay.protocols.base import ClientProtocol, Refusal
from relay.server.session_connection import REPLY_ENCODING, Connection
from relay.server.session_context import SessionContext

#: What a client gets that asks for something before it has shown a token.
NO_TOKEN = Unauthenticated(
    "unauthenticated", 'send {"type":"authenticate","token":...} before anything else', Close.UNAUTHENTICATED
)


class SessionReplies:
    """The answering half of `relay.server.session_commands.SessionCommands`, its only subclass.

    Args:
        context: What all sessions share.
        protocol: Makes the answers.
        connection: The client's connection.
    """

    __slots__ = ("_connection", "_context", "_errors", "_protocol")

    def __init__(self, context: SessionContext, protocol: ClientProtocol, connection: Connection) -> None:
        self._context = context
        self._protocol = protocol
        self._connection = connection
        self._errors = 0

    def close(self, close: Close) -> None:
        """End the session this way."""
        self._connection.close(close)

    def _reject(self, error: Unauthenticated) -> None:
        """Close a client that has no grant."""
        self._context.statistics.on_invalid_message(error.code)
        self._send([self._protocol.reject(error.code, error.message).payload])
        self.close(error.close)

    def _refuse(self, refusal: Refusal) -> None:
        self._context.statistics.on_invalid_message(refusal.code)
        self._send([refusal.payload])
        self._errors += refusal.counts
        if self._errors >= self._context.settings.max_client_errors:
            self.close(Close.TOO_MANY_ERRORS)

    def _send(self, payloads: Iterable[bytes]) -> None:
        format = self._format(REPLY_ENCODING)
        messages = [format.payload(payload) for payload in payloads if payload]
        if messages:
            self._connection.offer(batch_of(messages), paced=True)

    def _format(self, encoding: Encoding) -> Format:
        """Return the format of an encoding on this client's transport: one instance for all that share the encoding."""
        framing = self._connection.framing
        return Format(encoding, framing) if encoding.stateful else format_of(encoding, framing)
