"""The endpoint of ``/events``: how an HTTP response becomes a session, on a hijacked socket or over ASGI."""

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import trio
from relay_wire.channels import GENERAL

from relay.core.batches import Batch, Framing
from relay.core.channels import ChannelPatterns, task_channel
from relay.core.closecodes import Close
from relay.core.errors import BadMessage, BrokerError, Forbidden, ForeignOrigin, Unauthenticated, Unverified
from relay.core.extra_channels import channel_of
from relay.core.families import family_channel
from relay.core.grants import Grant, Verb
from relay.core.send_queue import SendQueue
from relay.protocols.base import ClientProtocol, Farewell
from relay.protocols.frames import Event, PeerClosed
from relay.protocols.sse import HEARTBEAT, SseProtocol, retry
from relay.protocols.task_events import TaskEventsProtocol
from relay.server.admission import CLIENT_LIMIT, REFUSAL_STATUS, Admission, whole_seconds
from relay.server.asgi_transport import AsgiTransport
from relay.server.auth.access import TOKEN_IN_URL, grant_of, require_all
from relay.server.connect_gate import CONNECT_RATE
from relay.server.cors import PRIVATE, header
from relay.server.endpoints import path_of
from relay.server.hijack import abort_hook, hijack_response
from relay.server.http_guard import send_json
from relay.server.hypercorn_compat.chain import Receive, Send, inspect
from relay.server.session import Session
from relay.server.transports import SocketTransport

PATH = "/events"

#: Milliseconds after which a client reconnects whose stream breaks off.
RETRY = (1000, 3000)

#: The same for a client that was refused: the relay is full, draining or starting.
RETRY_REFUSED = (2000, 10_000)

#: Headers of a response.
Headers = list[tuple[bytes, bytes]]

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    PRIVATE[0],
    (b"x-accel-buffering", b"no"),  # nginx must pass events on as they come
]


def chunk(payload: bytes) -> bytes:
    """Frame a payload as a chunk of HTTP/1.1 (RFC 9112 section 7.1). Nothing has no chunk: an empty one would be the last."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


#: The heartbeat on a socket, and over ASGI.
_CHUNKED_HEARTBEAT = Batch(chunk(HEARTBEAT), 0, len(chunk(HEARTBEAT)))
_HEARTBEAT = Batch((HEARTBEAT,), 0, 1)


def _retry_of(farewell: Farewell) -> bytes:
    """Return the line that says when to reconnect; empty where that is left to the client."""
    seconds = farewell.retry_after
    return b"" if seconds is None else retry(round(seconds * 1000), round(seconds * 1000))


class _DisconnectReader:
    """Reads a client of an event stream, which can do nothing but hang up."""

    in_message = False
    frames = 0

    def receive(self, data: bytes) -> list[Event]:
        return [] if data else [PeerClosed(1000)]

    def close(self) -> None:
        """Nothing was kept."""


class EventSocketTransport(SocketTransport):
    """An event stream on a hijacked socket."""

    __slots__ = ()

    framing = Framing(chunk, b"".join)

    def __init__(self, sock: socket.socket, dead_peer_timeout: float) -> None:
        super().__init__(sock, _DisconnectReader(), dead_peer_timeout)

    def heartbeat(self) -> Batch:
        return _CHUNKED_HEARTBEAT

    def _enqueue_close_frame(self, queue: SendQueue, close: Close, farewell: Farewell) -> None:
        if close.is_slow:
            # There is no way to send the reason; a stream that breaks off has the client reconnect.
            raise trio.BrokenResourceError("a slow client's stream is broken off")
        ending = chunk(_retry_of(farewell)) + b"0\r\n\r\n"
        queue.push(Batch(ending, 0, len(ending)), 0)


class EventAsgiTransport(AsgiTransport):
    """An event stream behind the ASGI server."""

    __slots__ = ()

    framing = Framing(bytes, tuple)

    async def drain(self, queue: SendQueue) -> None:
        self._is_writing = True
        while queue:
            for payload in queue.head().chunk[queue.written :]:
                await self._send({"type": "http.response.body", "body": payload, "more_body": True})
                queue.written += 1
            queue.pop()
        self._is_writing = False

    async def receive(self, timeout: float = 0) -> list[Event]:  # noqa: ARG002 - nothing that is sent here has an end
        message = await self._receive()
        if message["type"] != "http.disconnect":
            return []
        if not self._is_writing:  # over HTTP/2 others share the connection
            self._abort_via = None
        return [PeerClosed(1000)]

    def heartbeat(self) -> Batch | None:
        return _HEARTBEAT

    async def close(self, queue: SendQueue, close: Close, farewell: Farewell) -> None:
        if close in (Close.ABNORMAL_CLOSURE, Close.NORMAL) or close.is_slow:
            return
        if close.discards_queue:
            queue.clear()
        await self.drain(queue)
        await self._send({"type": "http.response.body", "body": self._last_body(farewell), "more_body": False})
        self._abort_via = None

    def _last_body(self, farewell: Farewell) -> bytes:
        """Return the end of the stream: what the client is to know of its close."""
        return _retry_of(farewell)


def _channels_of(query: dict[str, list[str]], named: ChannelPatterns, limit: int) -> list[str]:
    """Return the channels that a query names.

    Raises:
        BadMessage: None, an unknown one, or more than the limit.
    """
    channels = [task_channel(task_id) for task_id in query.get("task", [])]
    if query.get("children", [""])[-1] == "1":
        channels = [family_channel(channel) for channel in channels]
    if query.get("general", ["0"])[-1] not in ("0", "false", ""):
        channels.append(GENERAL)
    for name in query.get("channel", []):
        if name not in named:
            raise BadMessage("unknown_channel", f"no such channel: {name[:64]}")
        channels.append(channel_of(name))
    if not channels:
        raise BadMessage("nothing_wanted", "say what to follow: ?task=ID (repeatable) or ?general=1")
    if len(set(channels)) > limit:
        raise BadMessage("too_many_subscriptions", f"at most {limit} channels on one connection")
    return list(dict.fromkeys(channels))


class Stream(NamedTuple):
    """What a request for an event stream asks for.

    Attributes:
        subscriptions: To how many channels it subscribes.
        channels: Those that it requires: it is refused if its client may not follow one of them.
        protocol: Makes the protocol, and further headers of the response, once the client's grant is known. Raises BrokerError.
    """

    subscriptions: int
    channels: Sequence[str]
    protocol: Callable[[Grant], Awaitable[tuple[ClientProtocol, Headers]]]


#: Reads a request: its scope, and most channels. Raises BadMessage.
ReadStream = Callable[[Any, int], Stream]


def events_stream(named: ChannelPatterns, scope: Any, limit: int) -> Stream:
    """Return what a request for ``/events`` asks for.

    Args:
        named: The extra channels.
        scope: The request.
        limit: Most channels.

    Raises:
        BadMessage: As `_channels_of`, or a malformed ``subscribe``.
    """
    query = parse_qs(scope["query_string"].decode("latin1"))
    if "subscribe" in query:
        task_events = TaskEventsProtocol(named, query["subscribe"][-1])
        return Stream(
            task_events.count, [], _made(task_events)
        )  # a subscription that is refused has an answer of its own
    channels = _channels_of(query, named, limit)
    last_event_id = header(scope["headers"], b"last-event-id") or query.get("last_event_id", [None])[-1]
    deltas = "1" in (query.get(name, [""])[-1] for name in ("deltas", "children"))
    return Stream(len(channels), channels, _made(SseProtocol(channels, last_event_id, deltas=deltas)))


def _made(protocol: ClientProtocol) -> Callable[[Grant], Awaitable[tuple[ClientProtocol, Headers]]]:
    async def make(_grant: Grant) -> tuple[ClientProtocol, Headers]:
        return protocol, []

    return make


async def refuse(send: Send, cors: list[tuple[bytes, bytes]], retry_after: float | None = None) -> None:
    """Refuse a client that should reconnect: a 200 that ends at once and says when.

    An `EventSource` never reconnects after any other status.

    Args:
        send: The request's ASGI ``send``.
        cors: Headers for the page.
        retry_after: Seconds after which the client should try again; at random if None.
    """
    headers = [*_HEADERS, *cors]
    low, high = RETRY_REFUSED if retry_after is None else (round(retry_after * 1000),) * 2
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": retry(low, high), "more_body": False})


async def _refuse_for_limit(scope: Any, send: Send, cors: list[tuple[bytes, bytes]], retry_after: float) -> None:
    """Refuse a client of an address or user that has too many: with 429, or as `refuse` does if it is an `EventSource`."""
    if "text/event-stream" in (header(scope["headers"], b"accept") or ""):
        await refuse(send, cors)
        return
    headers = [(b"retry-after", b"%d" % whole_seconds(retry_after)), *cors]
    await send_json(send, 429, {"code": CLIENT_LIMIT, "message": Close.CLIENT_LIMIT.reason}, headers)


async def _grant_of(admission: Admission, scope: Any, channels: Sequence[str]) -> Grant:
    """Return the grant of a client that may follow some channels.

    Whether it may has to be known before the response begins: an `EventSource` gives up only at another status than 200. So the
    owner of a task that only its owner may follow is read here already.

    Raises:
        Unauthenticated: Its credentials do not hold, or it has none and needs some.
        Unverified: They cannot be checked now.
        Forbidden: It may not follow one of the channels.
        BrokerError: The owner of a task cannot be read now.
    """
    grant = await grant_of(admission.entry(scope["headers"], scope["query_string"]))
    await require_all(grant, Verb.WATCH, channels, admission.context.services.tasks.last_owners)
    return grant


async def _grant_or_refusal(
    admission: Admission, scope: Any, send: Send, channels: Sequence[str], cors: list[tuple[bytes, bytes]]
) -> Grant | None:
    """Return the grant of a client that may follow some channels, or answer it and return None."""
    try:
        return await _grant_of(admission, scope, channels)
    except Unauthenticated as error:
        body = {"code": error.code, "message": error.message}
        await send_json(send, 401, body, [(b"www-authenticate", b"Bearer"), *cors])
    except Forbidden as error:
        await send_json(send, 403, {"code": error.code, "message": error.message}, cors)
    except (Unverified, BrokerError):
        admission.count_refusal(Close.UNVERIFIED.label)
        await refuse(send, cors)
    return None


async def accept_stream(admission: Admission, read: ReadStream, scope: Any, receive: Receive, send: Send) -> None:
    """Begin the response, hijack it where that is possible, and serve it as a session."""
    settings = admission.settings
    chain = inspect(send)
    if chain.terminated is not None:
        admission.drain_when(chain.terminated)
    cors = admission.policy.response_headers(scope["headers"])
    if settings.needs_grants:
        cors = [*cors, *PRIVATE[1:]]
    client = admission.proxies.client(scope.get("client"), scope["headers"])
    retry_after = admission.limit_connect(client)
    if retry_after is not None:
        admission.count_refusal(CLIENT_LIMIT)
        await _refuse_for_limit(scope, send, cors, retry_after)
        return
    reason = admission.refusal_reason(scope["headers"], scope["query_string"])
    if reason is not None and reason in REFUSAL_STATUS:
        admission.count_refusal(reason)
        message = TOKEN_IN_URL if reason == "token_in_url" else ForeignOrigin.message
        await send_json(send, REFUSAL_STATUS[reason], {"code": reason, "message": message}, cors)
        return
    if reason is None and admission.is_full:
        reason = Close.FULL.label
    if reason is None:
        retry_after = await admission.gate.enter()
        reason = None if retry_after is None else CONNECT_RATE
    if reason is not None:
        admission.count_refusal(reason)
        await refuse(send, cors, retry_after)
        return
    try:
        stream = read(scope, settings.max_subscriptions)
    except BadMessage as error:
        await send_json(send, 400, {"code": error.code, "message": error.message}, cors)
        return
    grant = await _grant_or_refusal(admission, scope, send, stream.channels, cors)
    if grant is None:
        return
    retry_after = admission.retry_after_for(grant)
    if retry_after is None and not admission.has_room(client, grant, stream.subscriptions):
        retry_after = RETRY_REFUSED[1] / 1000
    if retry_after is not None:
        admission.count_refusal(CLIENT_LIMIT)
        await _refuse_for_limit(scope, send, cors, retry_after)
        return
    try:
        protocol, headers = await stream.protocol(grant)
    except BrokerError:
        admission.count_refusal(Close.UNVERIFIED.label)
        await refuse(send, cors)
        return
    sock = None
    try:
        with trio.fail_after(settings.handshake_timeout):
            await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *cors, *headers]})
            await send({"type": "http.response.body", "body": retry(*RETRY), "more_body": True})
            # HTTP/1.0 has no chunks: there the end of the connection is the end of the response.
            if settings.hijack_sockets and scope["http_version"] == "1.1":
                sock = await hijack_response(send)
    except trio.TooSlowError:
        admission.count_refusal("handshake_timeout")
        return
    if sock is None:
        abort_via = abort_hook(chain, send, settings.dead_peer_timeout)
        asgi = EventAsgiTransport(receive, send, settings.max_message_bytes, None, abort_via)
        await Session(admission.context, asgi, protocol, client, grant, path_of(scope)).run()
        return
    transport = EventSocketTransport(sock, settings.dead_peer_timeout)
    session = Session(admission.context, transport, protocol, client, grant, path_of(scope))
    admission.start(session.run, session.abort)
