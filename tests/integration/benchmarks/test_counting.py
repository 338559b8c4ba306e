"""The load generator counts every update, however reads cut it, and sees what is out of order."""

from collections.abc import Sequence

import pytest

from benchmarks.generator.client import Client
from benchmarks.generator.counting import Counting
from benchmarks.load import Received
from tests.integration.benchmarks.instruments import update

UPDATES = 40


def server_frame(payload: bytes, first: int = 0x81) -> bytes:
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    return bytes((first, 126)) + length.to_bytes(2) + payload


class Counted:
    """A client whose bytes come from the test."""

    def __init__(self, way: str) -> None:
        self.messages: list[bytes] = []
        self.controls: list[int] = []
        self.client = Client("t")
        self.client.is_closed = False
        self.client.is_sampled = True
        self.tally = Received(UPDATES, readers=1)
        counting = Counting(
            lambda _, message: self.messages.append(message),
            lambda _, first, __: self.controls.append(first),
        )
        self._count = getattr(counting, WAYS[way])
        counting.arm(self.tally, keep_last=False)

    def receive(self, data: bytes) -> None:
        buffer = bytearray(self.client.rest + data)
        self._count(self.client, buffer, len(buffer))


#: How the load generator counts what these servers send.
WAYS = {"frames": "messages", "lines": "websocket_stream", "stream": "websocket_stream", "events": "byte_stream"}


def on_the_wire(way: str, sequences: Sequence[int]) -> bytes:
    """Updates as the servers send them that are counted in this way."""
    updates = [update(i) for i in sequences]
    if way == "frames":
        return b"".join(map(server_frame, updates))
    if way == "lines":
        pairs = [b"\n".join(updates[i : i + 2]) for i in range(0, len(updates), 2)]
        return b"".join(map(server_frame, pairs))
    if way == "events":
        return b"".join(b"%x\r\ndata: %b\n\n\r\n" % (len(one) + 8, one) for one in updates)
    stream = b"".join(b"MSG t 1 %d\r\n%b\r\n" % (len(one), one) for one in updates)
    return b"".join(server_frame(stream[i : i + 100]) for i in range(0, len(stream), 100))


@pytest.mark.parametrize("way", ["frames", "lines", "stream", "events"])
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 127, 128, 131, 132, 500, 1 << 20])
def test_every_update_is_counted_however_reads_cut_it(way: str, piece: int) -> None:
    data = on_the_wire(way, range(UPDATES))
    counted = Counted(way)
    for i in range(0, len(data), piece):
        counted.receive(data[i : i + piece])
    assert counted.tally.updates == UPDATES
    assert counted.tally.done == 1
    assert counted.tally.disordered == 0
    assert counted.tally.latency.total == UPDATES


@pytest.mark.parametrize("way", ["frames", "lines", "stream", "events"])
@pytest.mark.parametrize(
    ("sequences", "jumps"), [([0, 1, 3], 1), ([0, 1, 1, 2], 1), ([0, 2, 1, 3], 3)], ids=["lost", "doubled", "swapped"]
)
def test_what_is_out_of_order_is_seen(way: str, sequences: list[int], jumps: int) -> None:
    counted = Counted(way)
    counted.receive(on_the_wire(way, sequences))
    assert counted.tally.updates == len(sequences)
    assert counted.tally.disordered == jumps


def test_what_is_no_update_is_not_counted() -> None:
    counted = Counted("frames")
    answer = b'{"type":"subscribed","task_id":"t"}'
    counted.receive(server_frame(update(0)) + server_frame(answer) + server_frame(b"", 0x89) + server_frame(update(1)))
    assert counted.tally.updates == 2
    assert counted.messages == [answer]
    assert counted.controls == [0x89]


def test_equally_long_updates_may_have_their_numbers_at_other_places() -> None:
    counted = Counted("frames")
    moved = [
        b'{"a":%d,"u":%b,"b":%d}' % (10**digits, update(i), 10 ** (7 - digits)) for i, digits in enumerate((3, 3, 4, 2))
    ]
    assert len({len(one) for one in moved}) == 1
    counted.receive(b"".join(map(server_frame, moved)))
    assert counted.tally.updates == 4
    assert counted.tally.disordered == 0


def test_a_fragmented_message_is_reported() -> None:
    counted = Counted("frames")
    counted.receive(server_frame(update(0), 0x01))
    assert counted.tally.updates == 0
    assert counted.tally.fragments == 1
