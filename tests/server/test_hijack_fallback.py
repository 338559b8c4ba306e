"""Where the chain to the socket is not the known one, the session stays on plain ASGI."""

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from trio.testing import MockClock, memory_stream_pair

from relay.server import hypercorn_compat
from relay.server.asgi_transport import AsgiTransport
from relay.server.hijack import asgi_transport, prepare
from relay.server.hypercorn_compat import chain as compat_chain
from relay.server.hypercorn_compat.chain import inspect

Send = Callable[[Any], Awaitable[None]]


async def nothing(message: Any = None) -> None:
    """A receive or send that does nothing."""


def chain(stream: Any, protocol_class: type = H11Protocol, server_class: type = TCPServer) -> Send:
    """An ASGI send as Hypercorn makes it, without its constructors."""
    tcp_server: Any = object.__new__(server_class)
    tcp_server.stream = stream
    protocol: Any = object.__new__(protocol_class)
    protocol.send = tcp_server.protocol_send if server_class is TCPServer else MethodType(nothing, tcp_server)
    ws_stream: Any = object.__new__(WSStream)
    ws_stream.send = protocol.stream_send
    send: Send = ws_stream.app_send
    return send


@pytest.fixture
def stream() -> Any:
    ours, theirs = socket.socketpair()
    theirs.close()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    yield stream
    ours.close()
    stream.socket.close()


class Unlike:
    """Has what a link has by name, and is none."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    async def send(self, message: Any) -> None: ...


async def test_the_known_chain_is_found_to_its_end(stream: Any) -> None:
    chain_found = inspect(chain(stream))
    assert chain_found.is_plain_http1
    assert chain_found.socket is stream.socket


async def test_a_foreign_send_is_left_alone(stream: Any) -> None:
    with_foreign_protocol: Any = object.__new__(WSStream)
    with_foreign_protocol.send = Unlike(stream).send
    with_function: Any = object.__new__(WSStream)
    with_function.send = nothing
    foreign: list[Any] = [
        nothing,
        lambda message: nothing(),
        Unlike(stream).send,
        SimpleNamespace(send=nothing),
        with_foreign_protocol.app_send,
        with_function.app_send,
        chain(stream, server_class=Unlike),
    ]
    for send in foreign:
        chain_found = inspect(send)
        assert not chain_found.is_plain_http1
        assert chain_found.socket is None
        assert prepare(send) is None


async def test_a_chain_that_is_only_half_the_known_one_is_left_alone() -> None:
    without_send: Any = object.__new__(WSStream)
    assert prepare(without_send.app_send) is None
    without_stream: Any = chain(None)
    del without_stream.__self__.send.__self__.send.__self__.stream
    assert prepare(without_stream) is None


async def test_http2_and_streams_that_are_no_sockets_asgi_transport(stream: Any) -> None:
    assert not inspect(chain(stream, H2Protocol)).is_plain_http1
    assert inspect(chain(stream, H2Protocol)).socket is stream.socket  # it can be aborted at least
    tls = SimpleNamespace(transport_stream=stream)
    assert not inspect(chain(tls)).is_plain_http1
    assert inspect(chain(tls)).socket is stream.socket
    memory, _ = memory_stream_pair()
    assert inspect(chain(memory)).socket is None
    for send in (chain(stream, H2Protocol), chain(tls), chain(memory)):
        assert prepare(send) is None


async def test_in_an_unverified_hypercorn_nothing_is_looked_for(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat_chain, "is_verified", lambda: False)
    chain_found = inspect(chain(stream))
    assert not chain_found.is_plain_http1
    assert chain_found.socket is None
    assert prepare(chain(stream)) is None


async def test_on_asgi_the_grip_on_the_socket_is_as_good_as_it_can_be(stream: Any) -> None:
    transport = asgi_transport(nothing, nothing, max_message=10, dead_peer_timeout=1.0, is_binary=False)
    assert isinstance(transport, AsgiTransport)
    assert transport.heartbeat() is None
    transport.abort()  # nothing to abort with
    transport = asgi_transport(nothing, chain(stream), max_message=10, dead_peer_timeout=1.0, is_binary=False)
    assert transport.heartbeat() is not None
    transport.abort()
    transport.abort()
    assert stream.socket.fileno() == -1


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    assert hypercorn_compat.install()


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def serve_one(app: Any, request: bytes) -> bytes:
    """One connection on Hypercorn's own connection object; returns what the client got before it hung up."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    config = Config()
    config.errorlog = None
    stream: Any = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(TCPServer(ASGIWrapper(app), config, WorkerContext(None), {}, stream).run)
            theirs.send(request)
            await trio.lowlevel.wait_readable(theirs)
            with suppress(ConnectionResetError):
                return theirs.recv(65536)
            return b""
    finally:
        theirs.close()
        ours.close()


async def accepting(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def refusing(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close"})


@pytest.mark.parametrize(("app", "status"), [(accepting, b"101"), (refusing, b"403")], ids=["accepted", "refused"])
async def test_hypercorn_answers_a_handshake(autojump_clock: MockClock, app: Any, status: bytes) -> None:
    with trio.move_on_after(5):
        assert (await serve_one(app, HANDSHAKE)).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(("app", "status"), [(accepting, b"101"), (refusing, b"403")], ids=["accepted", "refused"])
async def test_bytes_right_behind_the_handshake_do_not_end_the_server(
    autojump_clock: MockClock, app: Any, status: bytes
) -> None:
    for _ in range(60):  # which of the two comes first differs from one to the next
        with trio.move_on_after(5):
            assert (await serve_one(app, HANDSHAKE + b"\x81\x80\0\0\0\0")).startswith(b"HTTP/1.1 " + status)
