"""The endpoints ``/connection/sse``, ``/connection/http_stream`` and ``/emulation``: Centrifuge clients without WebSockets."""

from typing import Any
from urllib.parse import parse_qs

import trio
from quart import Response, request
from quart_trio import QuartTrio

from relay.core.closecodes import Close
from relay.core.errors import BadMessage, BrokerError
from relay.protocols.centrifuge import CentrifugeProtocol
from relay.protocols.centrifuge_client import CentrifugeServer
from relay.protocols.centrifuge_json import JsonCodec
from relay.protocols.frames import Received
from relay.server.admission import CLIENT_LIMIT, REFUSAL_STATUS, Admission, whole_seconds
from relay.server.connect_gate import CONNECT_RATE
from relay.server.cors import header
from relay.server.emulated_transports import EmulatedAsgiTransport, EmulatedSocketTransport, Form, event, line
from relay.server.emulation import Emulation, Inbox, read_request
from relay.server.hijack import abort_hook, hijack_response
from relay.server.http_guard import send_json
from relay.server.hypercorn_compat.chain import Receive, Send, inspect
from relay.server.running_relay import RelayHandle
from relay.server.session import Session

#: The paths of long answers, and the form of what is sent there.
SSE, HTTP_STREAM = "/connection/sse", "/connection/http_stream"
STREAMS: dict[str, Form] = {SSE: event, HTTP_STREAM: line}
EMULATION = "/emulation"

_JSON = JsonCodec()
_METHODS = {SSE: ("GET", "POST"), HTTP_STREAM: ("POST",)}
_TYPES = {SSE: b"text/event-stream", HTTP_STREAM: b"application/octet-stream"}
_HEADERS = [
    (b"cache-control", b"private, no-cache, no-store, must-revalidate, max-age=0"),
    (b"x-accel-buffering", b"no"),
]


async def accept_emulated(
    admission: Admission,
    server: CentrifugeServer,
    emulation: Emulation,
    path: str,
    scope: Any,
    receive: Receive,
    send: Send,
) -> None:
    """Serve a client's long answer as a session.

    Args:
        admission: Decides who may connect.
        server: What all clients have in common.
        emulation: Where the client's messages arrive.
        path: Which of the endpoints it is.
        scope: The request.
        receive: Its ASGI ``receive``.
        send: Its ASGI ``send``.
    """
    settings = admission.settings
    chain = inspect(send)
    if chain.terminated is not None:
        admission.drain_when(chain.terminated)
    cors = admission.policy.response_headers(scope["headers"])
    client = admission.proxies.client(scope.get("client"), scope["headers"])
    if scope["method"] not in _METHODS[path]:
        await send_json(send, 405, {"code": "method_not_allowed", "message": f"use {_METHODS[path][-1]} here"}, cors)
        return
    retry_after = admission.limit_connect(client)
    reason = CLIENT_LIMIT if retry_after is not None else _refusal_reason(admission, scope)
    if reason is None and (retry_after := await admission.gate.enter()) is not None:
        reason = CONNECT_RATE
    if reason is not None:
        await _refuse(admission, send, reason, retry_after, cors)
        return
    try:
        with trio.fail_after(settings.message_timeout):
            commands = await _first_commands(scope, receive, settings.max_message_bytes)
    except trio.TooSlowError:
        admission.count_refusal("handshake_timeout")
        return
    if commands is None:
        await send_json(
            send, 400, {"code": "bad_request", "message": "the first commands are missing or too long"}, cors
        )
        return
    entry = admission.entry(scope["headers"], scope["query_string"])
    retry_after = admission.retry_after_for(entry)
    if retry_after is not None:
        await _refuse(admission, send, CLIENT_LIMIT, retry_after, cors)
        return
    name = emulation.new_session()
    protocol = CentrifugeProtocol(server, _JSON, session=name, node=emulation.node)
    inbox = Inbox()
    sock = None
    try:
        with trio.fail_after(settings.handshake_timeout):
            headers = [(b"content-type", _TYPES[path]), *_HEADERS, *cors]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if path == SSE:
                await send({"type": "http.response.body", "body": b"\r\n", "more_body": True})
            if settings.hijack_sockets and scope["http_version"] == "1.1" and path == SSE:
                sock = await hijack_response(send)
    except trio.TooSlowError:
        admission.count_refusal("handshake_timeout")
        return
    form = STREAMS[path]
    transport: EmulatedSocketTransport | EmulatedAsgiTransport
    if sock is None:
        abort_via = abort_hook(chain, send, settings.dead_peer_timeout)
        transport = EmulatedAsgiTransport(receive, send, abort_via, form, inbox)
    else:
        transport = EmulatedSocketTransport(sock, settings.dead_peer_timeout, form, inbox)
    session = Session(admission.context, transport, protocol, client, entry, path)

    async def run() -> None:
        emulation.add(name, inbox, session.close)
        try:
            await session.run([Received(commands)])
        finally:
            emulation.remove(name)

    if sock is None:
        await run()
    else:
        admission.start(run, session.abort)


def _refusal_reason(admission: Admission, scope: Any) -> str | None:
    reason = admission.refusal_reason(scope["headers"], scope["query_string"])
    return Close.FULL.label if reason is None and admission.is_full else reason


async def _refuse(
    admission: Admission, send: Send, reason: str, retry_after: float | None, cors: list[tuple[bytes, bytes]]
) -> None:
    admission.count_refusal(reason)
    status = 429 if reason == CLIENT_LIMIT else REFUSAL_STATUS.get(reason, 503)
    headers = [(b"retry-after", b"%d" % whole_seconds(retry_after or 1.0)), *cors] if status in (429, 503) else cors
    await send_json(send, status, {"code": reason, "message": "this client may not connect now"}, headers)


async def _first_commands(scope: Any, receive: Receive, limit: int) -> str | None:
    """Return what a client sends with its request; None where that is nothing, too long, or no text."""
    if scope["method"] == "GET":
        query = parse_qs(scope["query_string"].decode("latin1"))
        commands = query.get("cf_connect", [""])[-1]
        return commands if 0 < len(commands.encode("utf-8", "replace")) <= limit else None
    length = header(scope["headers"], b"content-length")
    if length is not None and (not length.isdigit() or int(length) > limit):
        return None
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            break
    try:
        return body.decode() or None
    except UnicodeDecodeError:
        return None


def add_emulation(app: QuartTrio, relay: RelayHandle) -> None:
    """Add the route on which clients send their messages.

    Args:
        app: The app.
        relay: The relay, once it has started.
    """

    @app.post(EMULATION)
    async def emulate() -> Response:
        emulation = relay.running.emulation
        body = await request.get_data()
        try:
            message = read_request(body)
        except BadMessage:
            return Response("", 400)
        if len(message.data.encode("utf-8", "replace")) > emulation.max_message:
            return Response("", 413)
        try:
            found = await emulation.send(message.node, message.session, message.data)
        except BrokerError:
            return Response("", 503, {"retry-after": "1"})
        return Response("", 204 if found else 404)
