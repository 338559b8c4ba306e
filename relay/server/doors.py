"""The doors: WebSocket paths, and how a client comes in through one.

Quart hands the connection over before its routing: the handshake is the dearest part of a connection.
"""

from collections.abc import Callable
from typing import Any, TypedDict

import structlog
import trio
from quart_trio.asgi import TrioASGIWebsocketConnection

from relay.core.closecodes import Close
from relay.protocols.base import ClientProtocol
from relay.server.app import Relay, RelayApp
from relay.server.session import Session
from relay.server.takeover import Receive, Send, find, prepare, stay_on_asgi

_log = structlog.get_logger("relay.doors")


#: A protocol behind a path: makes one client's instance.
Door = Callable[[], ClientProtocol]


class _Limits(TypedDict):
    max_message: int
    dead_peer_timeout: float


class DoorConnection(TrioASGIWebsocketConnection):
    """Quart's WebSocket connection, for paths that are no doors; the others become sessions."""

    async def __call__(self, receive: Receive, send: Send) -> None:
        app: Any = self.app
        assert isinstance(app, RelayApp)
        path = self.scope["path"].removeprefix(self.scope.get("root_path", ""))
        door = app.doors.get(path)
        if door is None:
            await super().__call__(receive, send)
        else:
            await admit(app.relay, door, self.scope, receive, send)


async def admit(relay: Relay, door: Door, scope: Any, receive: Receive, send: Send) -> None:
    """Let a client in: handshake, takeover, session. Returns when the server's part in the connection is over."""
    settings = relay.settings
    peer = peer_of(scope)
    limits: _Limits = {
        "max_message": settings.max_message_bytes,
        "dead_peer_timeout": settings.dead_peer_timeout,
    }
    links = find(send)
    if links.asgi_stream is not None:
        relay.drain_with(links.asgi_stream.context.terminated)
    try:
        with trio.fail_after(settings.handshake_timeout):
            await receive()  # websocket.connect
            reason = refusal(relay, scope)
            if reason is not None:
                relay.metrics.refused.labels(reason).inc()
                if reason == "origin":
                    _log.info("origin refused", client=peer, origin=header(scope, b"origin"))
                await _refuse(scope, send, reason)
                return
            takeover = prepare(send) if settings.hijack_sockets and not relay.sessions.is_full else None
            await send({"type": "websocket.accept"})
            if relay.sessions.is_full:
                relay.metrics.refused.labels(Close.FULL.label).inc()
                await send({"type": "websocket.close", "code": Close.FULL.code, "reason": Close.FULL.reason})
                return
            taken = await takeover.complete(receive, **limits) if takeover is not None else None
    except trio.TooSlowError:
        relay.metrics.refused.labels("handshake_timeout").inc()
        return
    if taken is None:
        transport = stay_on_asgi(receive, send, **limits)
        await Session(relay.sessions, transport, door(), peer).run()
        return
    socket_transport, received = taken
    session = Session(relay.sessions, socket_transport, door(), peer)

    async def run() -> None:
        await session.run(socket_transport.feed(received))

    try:
        relay.sessions.start(run)
    except trio.RunFinishedError:
        session.abort()


async def _refuse(scope: Any, send: Send, reason: str) -> None:
    """Answer the handshake with a status that says whether to come back: 503 while draining, 403 for good."""
    if reason != "draining" or "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    headers = [(b"retry-after", b"1"), (b"content-type", b"text/plain")]
    await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"this relay is shutting down\n"})


def peer_of(scope: Any) -> str:
    """The client's address, for logs."""
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "unknown"


def may_enter(relay: Relay, headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a client with these request headers may come in."""
    return refusal(relay, {"headers": headers}) is None


def header(scope: Any, name: bytes) -> str | None:
    """A request header, given in lower case; the first one where there are several."""
    return next((value.decode("latin1") for key, value in scope["headers"] if key.lower() == name), None)


def refusal(relay: Relay, scope: Any) -> str | None:
    """Why a client may not come in; None when it may."""
    if relay.sessions.draining:
        return "draining"
    allowed = relay.settings.allowed_origins
    if "*" in allowed:
        return None
    origin = header(scope, b"origin")
    return None if origin is None or origin in allowed else "origin"
