"""Promise 2 on real sockets: clients that stop reading are dropped, and nobody else notices."""

import re
import selectors
import socket
import threading
import time

import msgspec
import pytest

from tests.conftest import StartRelay
from tests.harness import Kind, RedisServer, RelayServer, eventually

READERS = 200
STALLED = 5
UPDATE_BYTES = 4096
UPDATES = 5000  # 20 MB
WINDOW = 100  # updates that the publisher is ahead of the slowest reader: well within a reader's bounds


class Readers:
    """Many sockets read by one thread; each must get the numbered updates whole and in order."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._counts = dict.fromkeys(sockets, 0)
        self._buffers = {sock: bytearray() for sock in sockets}
        self._selector = selectors.DefaultSelector()
        self._stop = False
        self.error: str | None = None
        for sock in sockets:
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Readers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()
        self._selector.close()

    @property
    def slowest(self) -> int:
        assert self.error is None, self.error
        return min(self._counts.values())

    def _run(self) -> None:
        while not self._stop and self.error is None:
            for key, _ in self._selector.select(0.1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                data = sock.recv(1 << 18)
                if not data:
                    self.error = "a reader was disconnected"
                    return
                self._take(sock, data)

    def _take(self, sock: socket.socket, data: bytes) -> None:
        buffer = self._buffers[sock]
        buffer += data
        start = 0
        while len(buffer) - start >= 4:
            assert buffer[start] == 0x81
            assert buffer[start + 1] == 126, "every update has an extended 16-bit length"
            end = start + 4 + int.from_bytes(buffer[start + 2 : start + 4])
            if end > len(buffer):
                break
            number = self._counts[sock]
            if b'"n":%d,' % number not in buffer[start : start + 80]:
                self.error = f"expected update {number}, got {bytes(buffer[start : start + 80])!r}"
                return
            self._counts[sock] = number + 1
            start = end
        del buffer[:start]


def publish_numbered(redis_server: RedisServer, readers: Readers, first: int, last: int) -> None:
    """Publish as fast as the readers read: the test is about the clients that do not."""
    filler = "x" * UPDATE_BYTES
    with redis_server.client() as client:
        for number in range(first, last):
            data = {"n": number, "filler": filler}
            client.publish("task_updates", msgspec.json.encode({"type": "task_update", "task_id": "t", "data": data}))
            if number % WINDOW == 0:
                eventually(lambda number=number: readers.slowest > number - WINDOW, every=0.001)  # type: ignore[misc]


def is_connected(port: int, client: tuple[str, int]) -> bool:
    """Whether the kernel still has the server's end of a connection, in any state but TIME_WAIT."""
    remote = f"{int.from_bytes(socket.inet_aton(client[0]), 'little'):08X}:{client[1]:04X}"
    with open("/proc/net/tcp") as table:  # noqa: PTH123 - a pseudo file
        for line in table:
            _, local, peer, state, *_ = line.split()
            if local.endswith(f":{port:04X}") and peer == remote:
                return state != "06"
    return False


def dropped(relay: RelayServer) -> float:
    return sum(
        relay.metric(f'relay_connections_dropped_total{{reason="slow_{bound}"}}')
        for bound in ("messages", "bytes", "age")
    )


def test_stalled_clients_are_dropped_and_readers_get_everything(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    # A reader on a busy machine may lag by a window: it is to get every update all the same, not the folded state.
    relay = start_relay("hypercorn", coalesce_after=4000)
    sockets = [relay.raw_client("t") for _ in range(READERS)]
    stalled = [relay.raw_client("t", receive_buffer=4096) for _ in range(STALLED)]
    with Readers(sockets) as readers:
        publish_numbered(redis_server, readers, 0, 500)  # 2 MB, which the five cannot have taken
        eventually(lambda: dropped(relay) == STALLED)
        passed = time.monotonic()
        eventually(lambda: not any(is_connected(relay.port, sock.getsockname()) for sock in stalled), within=5.0)
        print(f"disconnected {time.monotonic() - passed:.2f} s after the last was dropped")
        publish_numbered(redis_server, readers, 500, UPDATES)
        eventually(lambda: readers.slowest == UPDATES)
        assert relay.metric('relay_connections{transport="hijacked"}') == READERS
        assert relay.metric("relay_queue_depth_messages") == 0
    assert dropped(relay) == STALLED
    assert len(re.findall("client dropped", relay.logged())) == STALLED, "each is logged once"
    before = relay.memory()
    for sock in sockets + stalled:
        sock.close()
    eventually(lambda: relay.metric('relay_connections{transport="hijacked"}') == 0)
    # What waited for the five was at most 5 MiB; with the clients gone nothing of it, or of them, remains.
    assert relay.memory() <= before + 5e6
    assert relay.memory() < 120 * 1024 * 1024


def test_backlog_memory_is_freed(redis_server: RedisServer, start_relay: StartRelay) -> None:
    """Forty megabytes wait for a client that does not read. The process gives them back soon after the client was dropped."""
    relay = start_relay(
        queue_messages=150, queue_bytes=64 * 1024 * 1024, queue_max_age=300, max_update_bytes=1024 * 1024
    )
    baseline = relay.memory()
    stalled = relay.raw_client("t", receive_buffer=4096)
    for number in range(145):
        redis_server.publish_general(n=number, filler="x" * 250_000)  # of no task: it cannot be coalesced
    eventually(lambda: relay.metric("relay_queue_depth_messages") > 130)
    peak = relay.memory()
    assert peak - baseline > 30e6
    for number in range(30):
        redis_server.publish_general(n=number)
    eventually(lambda: relay.metric('relay_connections{transport="hijacked"}') == 0)
    eventually(lambda: relay.memory() - baseline < (peak - baseline) / 3)
    stalled.close()


@pytest.mark.parametrize(
    ("kind", "hijack_sockets"), [("hypercorn", "false"), ("hypercorn-tls", "true"), ("uvicorn", "true")]
)
def test_stalled_client_is_aborted_on_plain_asgi(
    kind: Kind, hijack_sockets: str, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    """Where the session cannot own the socket, the connection is closed under the server's shielded send."""
    relay = start_relay(kind, hijack_sockets=hijack_sockets, queue_messages=100)
    sock = relay.raw_client("t", receive_buffer=4096)
    with relay.client("t", **relay.tls_options()) as reader:
        for number in range(300):
            redis_server.publish_task("t", n=number, filler="x" * 50_000)
            assert reader.receive()["data"]["n"] == number
        eventually(lambda: "client dropped" in relay.logged())
        eventually(lambda: not is_connected(relay.port, sock.getsockname()), within=5.0)
        redis_server.publish_task("t", n="last")
        assert reader.receive()["data"] == {"n": "last"}
    sock.close()


def test_slow_client_that_reads_learns_why(redis_server: RedisServer, start_relay: StartRelay) -> None:
    """The dropped client gets whole frames up to the close frame, if it reads them in time."""
    relay = start_relay("hypercorn", queue_messages=50, coalesce_after=40, close_timeout=10)
    sock = relay.raw_client(receive_buffer=4096)
    for number in range(400):
        redis_server.publish_general(n=number, filler="x" * 10_000)  # of no task: it cannot be folded
    eventually(lambda: dropped(relay) == 1)
    received = bytearray()
    while chunk := sock.recv(1 << 16):
        received += chunk
    sock.close()
    position = 0
    opcodes = []
    while position < len(received):
        opcode, length = received[position] & 0x0F, received[position + 1]
        position += 2
        if length == 126:
            length = int.from_bytes(received[position : position + 2])
            position += 2
        payload = received[position : position + length]
        position += length
        opcodes.append(opcode)
    assert position == len(received), "the last frame is whole"
    assert opcodes == [1] * (len(opcodes) - 1) + [8]
    assert int.from_bytes(payload[:2]) == 4008
    assert payload[2:] == b"slow: too many messages waiting"
