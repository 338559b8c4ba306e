"""The door of ``/events``: how an HTTP response becomes a session, over the socket or over ASGI."""

import json
import socket
from typing import Any
from urllib.parse import parse_qs

import trio
from quart_trio.asgi import TrioASGIHTTPConnection
from relay_wire.channels import GENERAL

from relay.core.channels import task_channel
from relay.core.closecodes import Close
from relay.core.errors import BadMessage
from relay.core.outbox import Batch, Framing, Outbox
from relay.protocols.frames import Event, PeerClosed
from relay.protocols.sse import HEARTBEAT, SseProtocol, retry
from relay.server.app import Relay, RelayApp
from relay.server.doors import header, peer_of, refusal
from relay.server.session import Session
from relay.server.takeover import Receive, Send, find, grip, take_over_response
from relay.server.transports import AsgiTransport, SocketTransport

PATH = "/events"

#: Milliseconds after which a client comes back: usually, and when this relay is draining and all come at once.
RETRY = (1000, 3000)
RETRY_DRAINING = (1000, 10_000)


def chunk(payload: bytes) -> bytes:
    """A payload in HTTP/1.1's chunked framing (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


class _HangUpReader:
    """All that a client of an event stream can do is hang up."""

    is_midway = False

    def receive(self, data: bytes) -> list[Event]:
        return [] if data else [PeerClosed(1000)]


class EventSocketTransport(SocketTransport):
    """An event stream on a taken-over socket."""

    __slots__ = ()

    framing = Framing(chunk, b"".join)

    def __init__(self, sock: socket.socket, dead_peer_timeout: float) -> None:
        super().__init__(sock, _HangUpReader(), dead_peer_timeout)

    def heartbeat(self) -> bytes:
        return chunk(HEARTBEAT)

    def _queue_last_words(self, outbox: Outbox, close: Close) -> None:
        if close.is_slow:
            # There is no way to tell it why; that the stream breaks off tells it to come back.
            raise trio.BrokenResourceError("a slow client's stream is broken off")
        last_words = (chunk(retry(*RETRY_DRAINING)) if close is Close.SHUTDOWN else b"") + b"0\r\n\r\n"
        outbox.push(Batch(last_words, 0, len(last_words)), 0)


class EventAsgiTransport(AsgiTransport):
    """An event stream behind the ASGI server."""

    __slots__ = ()

    framing = Framing(bytes, tuple)

    async def drain(self, outbox: Outbox) -> None:
        self._is_writing = True
        while outbox:
            for payload in outbox.head().chunk[outbox.written :]:
                await self._send({"type": "http.response.body", "body": payload, "more_body": True})
                outbox.written += 1
            outbox.pop()
        self._is_writing = False

    async def receive(self, timeout: float = 0) -> list[Event]:  # noqa: ARG002 - nothing that is sent here has an end
        message = await self._receive()
        if message["type"] != "http.disconnect":
            return []
        if not self._is_writing:  # over HTTP/2 others share the connection
            self._abort_via = None
        return [PeerClosed(1000)]

    def heartbeat(self) -> Any | None:
        return (HEARTBEAT,)

    async def close(self, outbox: Outbox, close: Close) -> None:
        if close in (Close.GONE, Close.NORMAL) or close.is_slow:
            return
        await self.drain(outbox)
        last_words = retry(*RETRY_DRAINING) if close is Close.SHUTDOWN else b""
        await self._send({"type": "http.response.body", "body": last_words, "more_body": False})
        self._abort_via = None


class EventsConnection(TrioASGIHTTPConnection):
    """Quart's HTTP connection, for all paths but ``/events``."""

    async def __call__(self, receive: Receive, send: Send) -> None:
        app: Any = self.app
        assert isinstance(app, RelayApp)
        path = self.scope["path"].removeprefix(self.scope.get("root_path", ""))
        if path == PATH and self.scope["method"] == "GET":
            await admit_reader(app.relay, self.scope, receive, send)
        else:
            await super().__call__(receive, send)


def _wanted(relay: Relay, query: dict[str, list[str]]) -> list[str]:
    channels = [task_channel(task_id) for task_id in query.get("task", [])]
    if query.get("general", ["0"])[-1] not in ("0", "false", ""):
        channels.append(GENERAL)
    for name in query.get("channel", []):
        if name not in relay.named:
            raise BadMessage("unknown_channel", f"no such channel: {name[:64]}")
        channels.append(name)
    limit = relay.settings.max_subscriptions
    if not channels:
        raise BadMessage("nothing_wanted", "say what to follow: ?task=ID (repeatable) or ?general=1")
    if len(set(channels)) > limit:
        raise BadMessage("too_many_subscriptions", f"at most {limit} channels on one connection")
    return list(dict.fromkeys(channels))


async def _answer(send: Send, status: int, body: dict[str, str]) -> None:
    content = json.dumps(body).encode() + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})


async def admit_reader(relay: Relay, scope: Any, receive: Receive, send: Send) -> None:
    """Begin the response, take it over where that can be, and serve it as a session."""
    settings = relay.settings
    links = find(send)
    if links.asgi_stream is not None:
        relay.drain_with(links.asgi_stream.context.terminated)
    reason = refusal(relay, scope) or (Close.FULL.label if relay.sessions.is_full else None)
    if reason is not None:
        relay.metrics.refused.labels(reason).inc()
        await _answer(
            send, 403 if reason == "origin" else 503, {"code": reason, "message": "not now, or not from here"}
        )
        return
    query = parse_qs(scope["query_string"].decode("latin1"))
    try:
        channels = _wanted(relay, query)
    except BadMessage as error:
        await _answer(send, 400, {"code": error.code, "message": error.message})
        return
    last_event_id = header(scope, b"last-event-id") or query.get("last_event_id", [None])[-1]
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),  # nginx must pass events on as they come
    ]
    origin = header(scope, b"origin")
    if origin is not None:
        headers += [(b"access-control-allow-origin", origin.encode("latin1")), (b"vary", b"origin")]
    sock = None
    try:
        with trio.fail_after(settings.handshake_timeout):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": retry(*RETRY), "more_body": True})
            # HTTP/1.0 has no chunks: there the end of the connection is the end of the response.
            if settings.hijack_sockets and scope["http_version"] == "1.1":
                sock = await take_over_response(send)
    except trio.TooSlowError:
        relay.metrics.refused.labels("handshake_timeout").inc()
        return
    protocol = SseProtocol(channels, last_event_id)
    if sock is None:
        abort_via = grip(links, send, settings.dead_peer_timeout)
        asgi = EventAsgiTransport(receive, send, settings.max_message_bytes, None, abort_via)
        await Session(relay.sessions, asgi, protocol, peer_of(scope)).run()
        return
    session = Session(relay.sessions, EventSocketTransport(sock, settings.dead_peer_timeout), protocol, peer_of(scope))
    try:
        relay.sessions.start(session.run)
    except trio.RunFinishedError:
        session.abort()
