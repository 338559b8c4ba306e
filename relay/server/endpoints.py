"""WebSocket endpoints: how a client that comes through the ASGI server is accepted and becomes a session.

They are served before Quart's routing, which would be the dearest part of a handshake.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import structlog
import trio

from relay.core.client_subscriptions import EarlyUpdates
from relay.core.closecodes import Close
from relay.core.hub import Hub
from relay.protocols.base import ClientProtocol, Subscribe
from relay.protocols.handshake import agreed_subprotocol, is_valid_key
from relay.server.admission import CLIENT_LIMIT, REFUSAL_STATUS, Admission, whole_seconds
from relay.server.connect_gate import CONNECT_RATE
from relay.server.cors import header
from relay.server.hijack import asgi_transport, prepare
from relay.server.hypercorn_compat.chain import Receive, Send, inspect
from relay.server.session import Session

_log = structlog.get_logger("relay.endpoints")


class Opening(NamedTuple):
    """What a client says about its protocol before the first message.

    Attributes:
        query: The query of its request.
        subprotocol: The WebSocket subprotocol that is agreed on, or None.
    """

    query: bytes
    subprotocol: str | None


#: A protocol behind a path: makes one client's instance.
Endpoint = Callable[[Opening], ClientProtocol]


def path_of(scope: Any) -> str:
    """Return the path of a request or a handshake, without what a proxy or a server has put before it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class _Limits(TypedDict):
    max_message: int
    dead_peer_timeout: float
    is_binary: bool


def early_updates(hub: Hub, protocol: ClientProtocol) -> EarlyUpdates:
    """Keep what a client gets without asking, while its handshake is answered; see `relay.server.session.Session.register`."""
    commands = [command for command in protocol.open() if isinstance(command, Subscribe)]
    return EarlyUpdates(hub, [command.channel for command in commands if not command.wants_history])


async def accept_client(admission: Admission, endpoint: Endpoint, scope: Any, receive: Receive, send: Send) -> None:
    """Accept a client: handshake, hijack, session. Returns when the server's part in the connection is over."""
    settings = admission.settings
    client = admission.proxies.client(scope.get("client"), scope["headers"])
    chain = inspect(send)
    if chain.terminated is not None:
        admission.drain_when(chain.terminated)
    chain.report_violations()  # also those in what the client sends right behind its handshake
    agreed = agreed_subprotocol(scope.get("subprotocols", ()))
    protocol = endpoint(Opening(scope["query_string"], agreed))
    limits: _Limits = {
        "max_message": settings.max_message_bytes,
        "dead_peer_timeout": settings.dead_peer_timeout,
        "is_binary": protocol.is_binary,
    }
    try:
        with trio.fail_after(settings.handshake_timeout):
            await receive()  # websocket.connect
            key = header(scope["headers"], b"sec-websocket-key")
            if key is not None and not is_valid_key(key):  # over HTTP/2 there is none
                admission.count_refusal("bad_request")
                await _refuse(scope, send, 400, "Sec-WebSocket-Key is not the base64 of 16 bytes")
                return
            retry_after = admission.limit_connect(client)
            if retry_after is not None:
                admission.count_refusal(CLIENT_LIMIT)
                await _refuse(scope, send, 429, "too many connections of this address", retry_after)
                return
            reason = admission.refusal_reason(scope["headers"], scope["query_string"])
            if reason is not None:
                admission.count_refusal(reason)
                if reason in ("origin", "host"):
                    _log.info(f"{reason} refused", client=str(client), value=header(scope["headers"], reason.encode()))
                await _refuse(scope, send, REFUSAL_STATUS.get(reason, 503), reason)
                return
            retry_after = None if admission.is_full else await admission.gate.enter()
            if retry_after is not None:
                admission.count_refusal(CONNECT_RATE)
                await _refuse(scope, send, 503, "too many connects at once", retry_after)
                return
            entry = admission.entry(scope["headers"], scope["query_string"])
            retry_after = admission.retry_after_for(entry)
            if retry_after is not None:
                admission.count_refusal(CLIENT_LIMIT)
                await _refuse(scope, send, 429, "too many connections of this user", retry_after)
                return
            with early_updates(admission.context.hub, protocol) as early:
                hijack = prepare(send) if settings.hijack_sockets and not admission.is_full else None
                await send({"type": "websocket.accept", "subprotocol": agreed})
                full = Close.FULL if admission.is_full else None
                if full is None and admission.has_too_many(client):  # others of its address came meanwhile
                    full = Close.CLIENT_LIMIT
                if full is not None:
                    admission.count_refusal(full.label)
                    await send({"type": "websocket.close", "code": full.code, "reason": full.reason})
                    return
                try:
                    hijacked = await hijack.complete(receive, **limits) if hijack is not None else None
                except OSError as error:  # files have run out
                    _log.error("a client cannot be taken over", client=str(client), error=str(error))
                    admission.count_refusal("no_files")
                    await send({"type": "websocket.close", "code": Close.FULL.code, "reason": Close.FULL.reason})
                    return
                transport = hijacked[0] if hijacked is not None else asgi_transport(receive, send, **limits)
                session = Session(admission.context, transport, protocol, client, entry, path_of(scope))
                session.register(early)
    except trio.TooSlowError:
        admission.count_refusal("handshake_timeout")
        return
    if hijacked is None:
        await session.run()
        return
    socket_transport, received = hijacked
    socket_transport.unread(received)

    def give_up() -> None:
        session.unregister()
        session.abort()

    admission.start(session.run, give_up)


async def refuse_starting(scope: Any, receive: Receive, send: Send) -> None:
    """Refuse a client while the relay is starting."""
    await receive()  # websocket.connect
    await _refuse(scope, send, 503, "starting")


async def _refuse(scope: Any, send: Send, status: int, reason: str, retry_after: float = 1.0) -> None:
    """Answer the handshake with a status, where the server can, else with 403. At 429 and 503 the client should try again."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-type", b"text/plain")]
    if status in (429, 503):
        headers.append((b"retry-after", b"%d" % whole_seconds(retry_after)))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": f"{reason}\n".encode()})
