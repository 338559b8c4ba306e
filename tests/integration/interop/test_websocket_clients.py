"""Real peers on real relays: a browser, Node's ws, trio-websocket and websockets each follow a task to its end.

And what a client may do the moment that its handshake is answered, when the relay is about to take its socket over.
"""

import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import pytest
import trio
import trio.testing
from trio_websocket import open_websocket_url
from websockets.exceptions import ConnectionClosed

from relay.processes import start_child
from tests.conftest import StartRelay
from tests.harness import PATIENCE, Kind, RedisServer, RelayServer, eventually, masked_frame, masked_text

HERE = Path(__file__).parent
BROWSER_PAGE = HERE / "browser" / "peer.html"
NODE = HERE / "node"

#: What is published: text beyond ASCII, and a payload for each of the three lengths that a frame's header can have.
UPDATES: list[dict[str, Any]] = [
    {"progress": 1, "note": "é☃😀"},
    {"message": "m" * 300},
    {"message": "l" * 70_000},
    {"status": "completed"},
]
SUBSCRIBED = {"type": "subscribed", "task_id": "t"}
TOLD = [SUBSCRIBED, *({"type": "task_update", "task_id": "t", "data": update} for update in UPDATES)]

Report = dict[str, Any]


class Way(NamedTuple):
    """A way to run the relay, and the transport that its clients must then be on."""

    kind: Kind
    transport: str
    hijack_sockets: bool = True

    def start(self, start: StartRelay) -> RelayServer:
        return start(self.kind, hijack_sockets=self.hijack_sockets)

    def check(self, relay: RelayServer, clients: int = 1) -> None:
        """All clients came over the expected transport. (The metrics behind TLS are out of the harness's reach.)"""
        if self.kind != "hypercorn-tls":
            assert relay.metric(f'relay_connections_accepted_total{{transport="{self.transport}"}}') == clients


HIJACKED = Way("hypercorn", "hijacked")
PLAIN_ASGI = Way("hypercorn", "asgi", hijack_sockets=False)
UVICORN = Way("uvicorn", "asgi")
TLS = Way("hypercorn-tls", "asgi")


def ways(*ways: Way) -> pytest.MarkDecorator:
    """The scope has pytest run all tests of one way together, on one relay."""
    return pytest.mark.parametrize("way", ways, ids=[f"{way.kind}-{way.transport}" for way in ways], scope="module")


each_way = ways(HIJACKED, UVICORN, PLAIN_ASGI, TLS)
two_ways = ways(HIJACKED, UVICORN)
plain_tcp = ways(HIJACKED, UVICORN, PLAIN_ASGI)


def publish_all(redis_server: RedisServer) -> None:
    for update in UPDATES:
        assert redis_server.publish_task("t", **update) == 1


# Peers in other processes: they report, the test publishes when they are subscribed.


def follow(report: Callable[[], Report], redis_server: RedisServer) -> list[Report]:
    """Publish when the peer says that it is subscribed; returns its other reports, once it has left cleanly."""
    others: list[Report] = []
    told: list[Any] = []
    while True:
        event = report()
        match event["event"]:
            case "message":
                told.append(msgspec.json.decode(event["text"]))
                if len(told) == 1:
                    publish_all(redis_server)
            case "closed":
                assert told == TOLD
                assert event == {"event": "closed", "code": 1000, "clean": True}
                return others
            case _:
                others.append(event)


@contextmanager
def page_server() -> Iterator[tuple[str, Callable[[], Report]]]:
    """An HTTP server for the browser's page: its URL, and a function that waits for the page's next report."""
    reports: queue.Queue[Report] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(BROWSER_PAGE.read_bytes() if self.path.startswith("/?") else b"")

        def do_POST(self) -> None:
            reports.put(msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            # A browser's first start, on a busy machine, takes its time.
            yield f"http://127.0.0.1:{server.server_port}/", partial(reports.get, timeout=3 * PATIENCE)
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def chromium(directory: Path, url: str) -> Iterator[None]:
    """Headless Chromium with a fresh profile, showing a page."""
    program = shutil.which("chromium")
    assert program is not None, "this test needs Debian's chromium package"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        f"--user-data-dir={directory / 'profile'}",
        # Without a debugging port a headless Chromium ends when it has loaded the page.
        "--remote-debugging-port=0",
    ]
    log = directory / "chromium.log"
    with log.open("wb") as output:
        child = start_child([program, *flags, url], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield
    except BaseException:
        print(f"--- log of chromium\n{log.read_text(errors='replace')[-8000:]}")
        raise
    finally:
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@two_ways
def test_browser(way: Way, shared_redis: RedisServer, share_relay: StartRelay, tmp_path: Path) -> None:
    relay = way.start(share_relay)
    with page_server() as (page, report), chromium(tmp_path, f"{page}?relay={quote(relay.url)}"):
        opened = follow(report, shared_redis)
    # Browsers offer deflate, and both servers accept it.
    assert [event["event"] for event in opened] == ["open"]
    assert opened[0]["extensions"].startswith("permessage-deflate")
    way.check(relay)


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The `ws` package as package-lock.json has it."""
    installed = NODE / "node_modules"
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=NODE, check=True)
    return installed


@two_ways
@pytest.mark.parametrize("compression", ["deflate", "plain"])
@pytest.mark.usefixtures("node_modules")
def test_node_ws(compression: str, way: Way, shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = way.start(share_relay)
    node = start_child(["node", str(NODE / "peer.js"), relay.url, compression], stdout=subprocess.PIPE)
    killer = threading.Timer(PATIENCE, node.kill)
    killer.start()
    try:
        assert node.stdout is not None
        others = follow(partial(_next_line, node.stdout), shared_redis)
        assert node.wait() == 0
    finally:
        killer.cancel()
        node.kill()
        node.wait()
        assert node.stdout is not None
        node.stdout.close()
    assert sorted(event["event"] for event in others) == ["open", "pong"]
    by_name = {event["event"]: event for event in others}
    assert by_name["pong"]["payload"] == "are you there"
    assert by_name["open"]["extensions"].startswith("permessage-deflate") == (compression == "deflate")
    way.check(relay)


def _next_line(output: Any) -> Report:
    line = output.readline()
    assert line, "node ended before the connection was closed"
    report: Report = msgspec.json.decode(line)
    return report


@two_ways
async def test_trio_websocket(way: Way, shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = way.start(share_relay)
    with trio.fail_after(PATIENCE):
        async with open_websocket_url(relay.url) as connection:
            await connection.send_message(msgspec.json.encode({"type": "subscribe", "task_id": "t"}).decode())
            told = [msgspec.json.decode(await connection.get_message())]
            publish_all(shared_redis)
            told += [msgspec.json.decode(await connection.get_message()) for _ in UPDATES]
            await connection.ping(b"are you there")  # returns when the pong is there
            await connection.aclose(1000)
            assert connection.closed is not None
            assert connection.closed.code == 1000
    assert told == TOLD
    way.check(relay)


@each_way
@pytest.mark.parametrize("compression", ["deflate", None])
def test_websockets(compression: str | None, way: Way, shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = way.start(share_relay)
    with relay.client(compression=compression, max_size=None, **relay.tls_options()) as client:
        client.send({"type": "subscribe", "task_id": "t"})
        told = [client.receive()]
        publish_all(shared_redis)
        told += [client.receive() for _ in UPDATES]
        assert told == TOLD
        assert client.connection.ping(b"are you there").wait(PATIENCE)
        way.check(relay)
        client.connection.close()
        assert client.connection.protocol.close_rcvd is not None
        assert client.connection.protocol.close_rcvd.code == 1000
    if way.kind != "hypercorn-tls":
        eventually(lambda: relay.metric(f'relay_connections{{transport="{way.transport}"}}') == 0)


@each_way
def test_relay_closes(way: Way, share_relay: StartRelay) -> None:
    """The closing handshake when Relay begins it: a binary message is not this protocol's."""
    relay = way.start(share_relay)
    with relay.client(**relay.tls_options()) as client:
        client.connection.send(b"\0\1\2")
        with pytest.raises(ConnectionClosed) as closed:
            client.receive()
    error = closed.value
    assert error.rcvd is not None
    assert error.rcvd.code == 1003
    assert error.sent is not None
    assert error.sent.code == 1003
    assert error.rcvd_then_sent is True


@each_way
def test_compressed_message_of_several_reads(way: Way, share_relay: StartRelay) -> None:
    relay = way.start(share_relay)
    incompressible = Random(1).randbytes(20_000).hex()
    with relay.client(compression="deflate", **relay.tls_options()) as client:
        assert [type(e).__name__ for e in client.connection.protocol.extensions] == ["PerMessageDeflate"]
        # Half of it is left after deflating: five of the relay's reads.
        client.send({"type": "subscribe", "task_id": "t", "padding": incompressible})
        assert client.receive() == SUBSCRIBED
        client.send({"type": "unsubscribe", "task_id": "t"})
        assert client.receive() == {"type": "unsubscribed", "task_id": "t"}


# Bare sockets: what comes right behind the handshake.

HANDSHAKE = (
    b"GET /ws/tasks HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x0, 0x8, 0x9, 0xA
FINAL = 0x80

Frame = tuple[int, bytes]


class BareClient:
    """A TCP connection after the handshake; nothing is read before the test asks for it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = await self._stream.receive_some(65536)
            if not data:
                raise EOFError
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def shake_hands(self) -> None:
        await self.send(HANDSHAKE)
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += await self._read(1)
        assert b" 101 " in answer, answer

    async def frame(self) -> Frame:
        """The server's next frame, its heartbeats left out: opcode and payload."""
        opcode = PING
        while opcode == PING:
            first, length = await self._read(2)
            assert first & FINAL
            assert length < 127, "no frame in these tests is as long as that"
            size = int.from_bytes(await self._read(2)) if length == 126 else length
            opcode, payload = first & 0xF, await self._read(size)
        return opcode, payload

    async def frames_to_end(self) -> list[Frame]:
        """All frames until the server hangs up."""
        frames = []
        while True:
            try:
                frames.append(await self.frame())
            except EOFError:
                return frames


def ask(task_id: str) -> bytes:
    return msgspec.json.encode({"type": "subscribe", "task_id": task_id})


def answer(task_id: str) -> Frame:
    return TEXT, msgspec.json.encode({"type": "subscribed", "task_id": task_id})


@contextmanager
def within_patience() -> Iterator[None]:
    with trio.fail_after(PATIENCE):
        yield


@plain_tcp
async def test_burst_behind_the_handshake(way: Way, share_relay: StartRelay) -> None:
    """Fifty messages and a ping in one write, before anything is read: each is answered, in order."""
    relay = way.start(share_relay)
    with within_patience():
        async with await trio.open_tcp_stream("127.0.0.1", relay.port) as stream:
            client = BareClient(stream)
            await client.shake_hands()
            burst = b"".join(masked_text(ask(f"task {number}")) for number in range(50))
            await client.send(burst + masked_frame(FINAL | PING, b"last"))
            frames = [await client.frame() for _ in range(51)]
    # Behind an ASGI server a pong may overtake messages: it is the server's own.
    assert [frame for frame in frames if frame[0] == TEXT] == [answer(f"task {number}") for number in range(50)]
    assert (PONG, b"last") in frames
    way.check(relay)


@plain_tcp
async def test_message_in_fragments_from_the_first_byte(way: Way, share_relay: StartRelay) -> None:
    """The first fragment comes right behind the handshake, cut inside a character; a ping comes between the others."""
    relay = way.start(share_relay)
    message = msgspec.json.encode({"type": "subscribe", "task_id": "☃"})
    cut = message.index("☃".encode()) + 1
    with within_patience():
        async with await trio.open_tcp_stream("127.0.0.1", relay.port) as stream:
            client = BareClient(stream)
            await client.shake_hands()
            await client.send(masked_frame(TEXT, message[:cut]))
            # Its pong tells that the first fragment was read, by whoever reads then.
            await client.send(masked_frame(FINAL | PING, b"1"))
            assert await client.frame() == (PONG, b"1")
            await client.send(masked_frame(CONTINUATION, message[cut : cut + 1]))
            await client.send(masked_frame(FINAL | PING, b"2"))
            assert await client.frame() == (PONG, b"2")
            await client.send(masked_frame(FINAL | CONTINUATION, message[cut + 1 :]))
            assert await client.frame() == answer("☃")
            # And one frame that comes in two pieces, the first of them half a header.
            whole = masked_text(ask("t"))
            await client.send(whole[:1])
            await client.send(whole[1:])
            assert await client.frame() == answer("t")
    way.check(relay)


async def _leaves(client: BareClient) -> None:
    """Asks and says goodbye in one go."""
    await client.send(masked_text(ask("t")) + masked_frame(FINAL | CLOSE, (1000).to_bytes(2)))
    assert await client.frames_to_end() == [answer("t"), (CLOSE, (1000).to_bytes(2))]


async def _pings(client: BareClient) -> None:
    await client.send(masked_frame(FINAL | PING, b"p"))
    assert await client.frame() == (PONG, b"p")


async def _sends_half(client: BareClient) -> None:
    """A fragment now, the rest when the other clients are through with it, too."""
    message = ask("t")
    await client.send(masked_frame(TEXT, message[:9]))
    await trio.testing.wait_all_tasks_blocked(0.05)
    await client.send(masked_frame(FINAL | CONTINUATION, message[9:]))
    assert await client.frame() == answer("t")


async def _breaks_the_protocol(client: BareClient) -> None:
    """An opcode that is reserved, behind a good message: the message is answered, and then the reason is told."""
    await client.send(masked_text(ask("t")) + masked_frame(FINAL | 0x5, b""))
    first, last = await client.frames_to_end()
    assert first == answer("t")
    assert (last[0], last[1][:2]) == (CLOSE, (1002).to_bytes(2))


async def _breaks_utf8(client: BareClient) -> None:
    await client.send(masked_text(b'"\xff"'))
    [(opcode, payload)] = await client.frames_to_end()
    assert (opcode, payload[:2]) == (CLOSE, (1007).to_bytes(2))


async def _says_too_much(client: BareClient) -> None:
    """One byte more than RELAY_MAX_MESSAGE_BYTES."""
    await client.send(masked_text(b" " * (64 * 1024 + 1)))
    [(opcode, payload)] = await client.frames_to_end()
    assert (opcode, payload[:2]) == (CLOSE, (1009).to_bytes(2))


@pytest.mark.parametrize(
    "first_words", [_leaves, _pings, _sends_half, _breaks_the_protocol, _breaks_utf8, _says_too_much]
)
async def test_first_words_meet_the_hijack(first_words: Callable[[BareClient], Any], share_relay: StartRelay) -> None:
    """Many clients at once: the loop is busy, and what they say reaches the relay just before, during and just after
    the hijack of their sockets. It must make no difference."""
    relay = HIJACKED.start(share_relay)
    count = 100

    async def one() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", relay.port) as stream:
            client = BareClient(stream)
            await client.shake_hands()
            await first_words(client)

    with within_patience():
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
    HIJACKED.check(relay, count)
    eventually(lambda: relay.metric('relay_connections{transport="hijacked"}') == 0)
