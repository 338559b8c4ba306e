"""An echo server on Relay's sessions: the endpoint, the hijack, the reader and the send queue of the relay, another protocol.

For a fuzzing client that expects its messages back: ``hypercorn -k trio echo.py:app``. It is configured as the
relay is; with no Redis configured it brings one along, as Relay does, although nothing is published.
"""

from collections.abc import Iterable

from relay import logs
from relay.config import load
from relay.core import client_budget
from relay.core.batches import Framing
from relay.protocols.base import Command, ProtocolDefaults, Refusal, Reply
from relay.protocols.frames import binary_frame, text_frame
from relay.server.app import RelayApp, create_app
from relay.server.transports import SocketTransport

#: A payload's first byte says what it is; the rest goes out.
_TEXT, _BINARY = b"t", b"b"


class EchoProtocol(ProtocolDefaults):
    """Sends every message back as the kind that it was."""

    def open(self) -> Iterable[Command]:
        return ()

    def receive(self, message: str | bytes) -> Iterable[Command]:
        if isinstance(message, str):
            return (Reply(_TEXT + message.encode()),)
        return (Reply(_BINARY + message),)

    def refuse(self, code: str, message: str, channel: str | None = None) -> Refusal:
        return Refusal(code, _TEXT + f"{code}: {message} ({channel})".encode())

    def reject(self, code: str, message: str) -> Refusal:
        return Refusal(code, _TEXT + f"{code}: {message}".encode())

    def expiry_notice(self, seconds: float) -> bytes:
        return _TEXT + f"{seconds} s left".encode()


def _frame(payload: bytes) -> bytes:
    frame = text_frame if payload[:1] == _TEXT else binary_frame
    return frame(payload[1:])


def create_echo_app() -> RelayApp:
    """Relay's app, its endpoints replaced by one at ``/``, and its sockets able to send binary messages, too."""
    settings, redis_settings = load()
    logs.configure(settings.log_level)
    client_budget.BURST = client_budget.RATE = 1e12  # Autobahn sends as fast as it can
    SocketTransport.framing = Framing(_frame, b"".join)
    app = create_app(settings, redis_settings)
    app.endpoints = {"/": lambda _opening: EchoProtocol()}
    return app


app = create_echo_app()
