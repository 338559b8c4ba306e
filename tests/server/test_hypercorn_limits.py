"""Relay's limits where Hypercorn has the connection: frames over HTTP/1.1 and HTTP/2, and floods of control frames."""

import gc
import socket
import sys
import tracemalloc
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event
from wsproto.extensions import PerMessageDeflate

from relay.core.closecodes import Close
from relay.protocols.connection import break_cycle
from relay.server import hypercorn_compat
from relay.server.hypercorn_compat.chain import inspect
from relay.server.hypercorn_compat.listeners import ReleasedTCPServer
from tests.harness import masked_frame, masked_text

App = Callable[[Any, Any, Any], Awaitable[None]]

LIMIT = 1000
MESSAGE_TIMEOUT = 10.0

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


def bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(size)) + packer.flush(zlib.Z_SYNC_FLUSH)
    return masked_frame(0xC1, packed[:-4])


class Recording:
    """An app that accepts a WebSocket and records what it receives."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
            return
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            self.received.append(message)
            if message["type"] == "websocket.disconnect":
                return


class Leaving(Recording):
    """The same, and it closes the connection itself, as Relay's sessions do."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        violation = inspect(send).report_violations()
        await receive()
        await send({"type": "websocket.accept"})
        while (close := violation()) is None:
            self.received.append(await receive())
        await send({"type": "websocket.close", "code": close.code, "reason": close.reason})


@asynccontextmanager
async def connected(app: App, *, cleartext_http2: bool = False) -> AsyncIterator[trio.SocketStream]:
    """A client's stream to Hypercorn's own connection object."""
    assert hypercorn_compat.install()
    ours, theirs = socket.socketpair()
    config: Any = Config()
    config.errorlog = None
    config.websocket_max_message_size = LIMIT
    config.relay_message_timeout = MESSAGE_TIMEOUT
    config.relay_allows_cleartext_http2 = cleartext_http2
    wrapped: Any = ASGIWrapper(app)
    stream: Any = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ReleasedTCPServer(wrapped, config, WorkerContext(None), {}, stream).run)
        yield client
        await client.aclose()


async def answered(client: trio.SocketStream, connection: Connection) -> list[Event]:
    """All that a WebSocket client gets until the end of the stream."""
    events: list[Event] = []
    with trio.fail_after(60):
        try:
            async for data in client:
                connection.receive_data(bytes(data))
                events += connection.events()
        except trio.BrokenResourceError:
            pass
    return events


async def websocket(client: trio.SocketStream) -> Connection:
    await client.send_all(HANDSHAKE)
    head = b""
    while b"\r\n\r\n" not in head:
        head += await client.receive_some()
    assert head.startswith(b"HTTP/1.1 101")
    extension = PerMessageDeflate()
    extension.finalize("permessage-deflate")
    return Connection(ConnectionType.CLIENT, [extension], head.partition(b"\r\n\r\n")[2])


VIOLATIONS = [
    (masked_text(b"x" * (LIMIT + 1)), Close.TOO_BIG),
    (bomb(100 << 20), Close.TOO_BIG),
    (masked_text(b"\xff"), Close.INVALID_TEXT),
    (b"\x81\x02ab", Close.PROTOCOL_ERROR),  # not masked
    (masked_frame(0x83, b""), Close.PROTOCOL_ERROR),
]


@pytest.mark.parametrize("kind", [Recording, Leaving], ids=["another app", "an app that closes itself"])
@pytest.mark.parametrize(
    ("data", "close"), VIOLATIONS, ids=["too long", "a bomb", "not UTF-8", "not masked", "reserved"]
)
async def test_a_violation_is_ended_by_a_close_frame(
    autojump_clock: MockClock, data: bytes, close: Close, kind: type[Recording]
) -> None:
    app = kind()
    async with connected(app) as client:
        connection = await websocket(client)
        await client.send_all(masked_text(b"x" * LIMIT))
        tracemalloc.start()
        try:
            await client.send_all(data)
            assert await answered(client, connection) == [CloseConnection(close.code, close.reason)]
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
    assert app.received[0] == {"type": "websocket.receive", "text": "x" * LIMIT, "bytes": None}


@pytest.mark.parametrize("kind", [Recording, Leaving], ids=["another app", "an app that closes itself"])
async def test_a_message_that_has_begun_must_be_finished_in_time(
    autojump_clock: MockClock, kind: type[Recording]
) -> None:
    app = kind()
    async with connected(app) as client:
        connection = await websocket(client)
        whole = masked_text(b"x" * 300)
        for _ in range(3):  # each in time, together not
            await client.send_all(whole[:7])
            await trio.sleep(MESSAGE_TIMEOUT - 1)
            await client.send_all(whole[7:])
        await wait_all_tasks_blocked()
        assert len(app.received) == 3
        began = trio.current_time()

        async def trickle() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                for byte in whole[:-1]:
                    await client.send_all(bytes([byte]))
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            assert await answered(client, connection) == [CloseConnection(4009, Close.MESSAGE_TIMEOUT.reason)]
            assert trio.current_time() - began == pytest.approx(MESSAGE_TIMEOUT)
            nursery.cancel_scope.cancel()


async def test_a_close_frame_is_answered_and_its_code_reaches_the_app(autojump_clock: MockClock) -> None:
    app = Recording()
    async with connected(app) as client:
        connection = await websocket(client)
        await client.send_all(masked_frame(0x89, b"ping") + masked_frame(0x88, (1014).to_bytes(2) + b"gateway"))
        head = b""
        with trio.fail_after(60):
            async for data in client:
                head += data
    assert head == b"\x8a\x04ping" + b"\x88\x09" + (1014).to_bytes(2) + b"gateway"
    assert app.received == [{"type": "websocket.disconnect", "code": 1014, "reason": "gateway"}]
    assert connection is not None


@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n"], ids=["first", "pipelined"])
async def test_a_request_with_thousands_of_headers_is_refused(autojump_clock: MockClock, behind: bytes) -> None:
    app = Recording()
    async with connected(app) as client:
        await client.send_all(behind + b"GET / HTTP/1.1\r\nHost: relay\r\n" + b"a:b\r\n" * 2000 + b"\r\n")
        answer = b""
        with trio.fail_after(60):
            async for data in client:
                answer += data
    assert answer.count(b"HTTP/1.1 200") == app.calls == bool(behind)
    assert answer.count(b"HTTP/1.1 431") == 1


async def test_a_request_with_two_lengths_is_refused_and_what_follows_is_not_read(autojump_clock: MockClock) -> None:
    app = Recording()
    head = b"POST / HTTP/1.1\r\nHost: relay\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with connected(app) as client:
        await client.send_all(head + b"0\r\n\r\nGET / HTTP/1.1\r\nHost: relay\r\n\r\n")
        answer = b""
        with trio.fail_after(60):
            async for data in client:
                answer += data
    assert answer.startswith(b"HTTP/1.1 400")
    assert (answer.count(b"HTTP/1.1"), app.calls) == (1, 0)


async def test_cleartext_http2_is_off_unless_it_is_asked_for(autojump_clock: MockClock) -> None:
    app = Recording()
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    async with connected(app) as client:
        await client.send_all(preface)
        answer = b""
        with trio.fail_after(60):
            async for data in client:
                answer += data
    assert answer.startswith(b"HTTP/1.1 505 ")
    assert app.calls == 0
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n"
    )
    async with connected(app) as client:
        await client.send_all(upgrade)
        assert (await client.receive_some()).startswith(b"HTTP/1.1 200 ")
    async with connected(app, cleartext_http2=True) as client:
        await client.send_all(preface)
        assert (await client.receive_some())[3:4] == b"\x04"  # SETTINGS


class H2Client:
    """A client of HTTP/2."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.connection = H2Connection(H2Configuration(client_side=True))
        self.connection.initiate_connection()

    async def flush(self) -> None:
        await self.stream.send_all(self.connection.data_to_send())

    async def read(self, until: type) -> Any:
        with trio.fail_after(60):
            while True:
                data = await self.stream.receive_some()
                assert data, "hung up"
                for event in self.connection.receive_data(data):
                    if isinstance(event, DataReceived):
                        self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    if isinstance(event, until):
                        return event
                await self.flush()


async def test_the_limits_hold_over_http2(autojump_clock: MockClock) -> None:
    app = Recording()
    async with connected(app, cleartext_http2=True) as stream:
        client = H2Client(stream)
        await client.flush()
        headers = {":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": "/", ":authority": "x"}
        more = {"sec-websocket-version": "13", "sec-websocket-extensions": "permessage-deflate"}
        number = client.connection.get_next_available_stream_id()
        client.connection.send_headers(number, list((headers | more).items()))
        await client.flush()
        await client.read(ResponseReceived)
        data = bomb(10 << 20)
        tracemalloc.start()
        try:
            client.connection.send_data(number, data)
            await client.flush()
            got = await client.read(DataReceived)
            assert got.data[2:4] == (1009).to_bytes(2)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


def objects_of_connections() -> Counter[str]:
    kinds = (type(item) for item in gc.get_objects())
    modules = ("hypercorn.protocol", "hypercorn.trio.tcp_server", "h11.", "h2.", "wsproto.", "relay.")
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith(modules))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="there the cyclic garbage collector frees some of them")
@pytest.mark.parametrize("kind", ["websocket", "bomb", "request", "half a request"])
async def test_a_connection_that_has_ended_leaves_no_object(autojump_clock: MockClock, kind: str) -> None:
    """Without the help of the cyclic garbage collector, which seldom runs."""

    async def use() -> None:
        async with connected(Recording()) as client:
            if kind in ("websocket", "bomb"):
                connection = await websocket(client)
                break_cycle(connection)
                await client.send_all(bomb(10 << 20) if kind == "bomb" else masked_text(b"x"))
            elif kind == "request":
                await client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await client.receive_some()).startswith(b"HTTP/1.1 200")
            else:
                await client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n")
            await wait_all_tasks_blocked()

    await use()
    gc.collect()
    before = objects_of_connections()
    gc.disable()
    try:
        await use()
        assert objects_of_connections() - before == Counter()
    finally:
        gc.enable()


FLOODS = {
    "SETTINGS": b"\0\0\0\x04\0\0\0\0\0",
    "PING": b"\0\0\x08\x06\0\0\0\0\0" + bytes(8),
    "WINDOW_UPDATE": b"\0\0\x04\x08\0\0\0\0\0\0\0\0\1",
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_control_frames_ends_the_connection(autojump_clock: MockClock, flood: bytes) -> None:
    async with connected(Recording(), cleartext_http2=True) as stream:
        client = H2Client(stream)
        await client.flush()

        async def send() -> None:
            try:
                while True:
                    await stream.send_all(flood * 1000)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            ended = b""
            with trio.fail_after(60):
                try:
                    while data := await stream.receive_some():
                        ended = (ended + data)[-65536:]
                except trio.BrokenResourceError:
                    pass
            nursery.cancel_scope.cancel()
        # GOAWAY with ENHANCE_YOUR_CALM.
        assert b"\x07\0\0\0\0\0" in ended
        assert (11).to_bytes(4) in ended


async def test_a_few_control_frames_do_not(autojump_clock: MockClock) -> None:
    async with connected(Recording(), cleartext_http2=True) as stream:
        client = H2Client(stream)
        await client.flush()
        for _ in range(10):
            await stream.send_all(b"".join(FLOODS.values()) * 30)
            await trio.sleep(2)
        number = client.connection.get_next_available_stream_id()
        headers = {":method": "GET", ":scheme": "http", ":path": "/", ":authority": "x"}
        client.connection.send_headers(number, list(headers.items()), end_stream=True)
        await client.flush()
        assert isinstance(await client.read(ResponseReceived), ResponseReceived)
