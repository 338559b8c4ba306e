"""What a client sends right behind its handshake, when the relay is about to hijack its socket."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tests.conftest import StartRelay
from tests.harness import PATIENCE, eventually, masked_frame, masked_text
from tests.integration.interop.relays import HIJACKED, PLAIN_ASGI, UVICORN, Way, ways

plain_tcp = ways(HIJACKED, UVICORN, PLAIN_ASGI)

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
            # Its pong shows that the first fragment was read, on either side of the hijack.
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
    """An opcode that is reserved, behind a good message: the message is answered, and then the close frame gives the reason."""
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
