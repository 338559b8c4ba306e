"""Clients that read steadily, but slowly, are given all that they ask for, however much it is and however long it takes."""

import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest

from tests.conftest import StartRelay
from tests.harness import Kind, RedisServer, RelayServer, eventually, masked_text

#: Bytes a second that such a client reads: a megabyte takes several times the maximum age.
PACE = 400_000

SETTINGS: dict[str, Any] = {"max_update_bytes": 65_536, "queue_bytes": 131_072, "queue_max_age": 1.0}


def messages(relay: RelayServer, *requests: Any) -> Iterator[Any]:
    """What a client gets that asks for all of this at once, and then reads at its pace."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        sock.connect(("127.0.0.1", relay.port))
        sock.settimeout(20)
        sock.sendall(
            b"GET /ws/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        buffer = b""
        while b"\r\n\r\n" not in buffer:
            buffer += sock.recv(4096)
        buffer = buffer.partition(b"\r\n\r\n")[2]
        sock.sendall(b"".join(masked_text(msgspec.json.encode(request)) for request in requests))
        started, taken = time.monotonic(), 0
        while True:
            while (frame := first_frame(buffer)) is not None:
                opcode, payload, buffer = frame
                assert opcode != 8, payload
                if opcode == 1:
                    yield msgspec.json.decode(payload)
            data = sock.recv(16_384)
            assert data, "the relay hung up"
            buffer += data
            taken += len(data)
            time.sleep(max(0.0, started + taken / PACE - time.monotonic()))


def first_frame(buffer: bytes) -> tuple[int, bytes, bytes] | None:
    """The first whole frame, and what comes behind it."""
    if len(buffer) < 10:
        return None
    length, start = buffer[1], 2
    if length >= 126:
        start = 4 if length == 126 else 10
        length = int.from_bytes(buffer[2:start])
    end = start + length
    return None if len(buffer) < end else (buffer[0] & 15, buffer[start:end], buffer[end:])


def publish(server: RedisServer, numbers: Iterable[int]) -> None:
    """Publish updates of the task t in one write: a reader that publishes does not read meanwhile."""
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in numbers:
            update = {"type": "task_update", "task_id": "t", "data": {"n": number, "text": "x" * 4096}}
            pipeline.publish("task_updates", msgspec.json.encode(update))
        pipeline.execute()


def persisted(server: RedisServer, count: int) -> None:
    """Wait until so many updates are in the histories."""

    def total() -> int:
        with server.client() as client:
            return sum(client.xlen(name) for name in client.scan_iter("relay:*:log", count=1000))

    eventually(lambda: total() == count)


@pytest.mark.parametrize("kind", ["hypercorn", "serve"])
def test_the_states_of_many_tasks_come_at_the_pace_of_the_reader(
    kind: Kind, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay(kind, **SETTINGS)
    tasks = [f"t{number}" for number in range(20)]
    for task in tasks:
        redis_server.publish_task(task, text="x" * 60_000)
    persisted(redis_server, len(tasks))
    got = messages(relay, *({"type": "subscribe", "task_id": task} for task in tasks))
    for task in tasks:
        assert next(got) == {"type": "subscribed", "task_id": task}
        assert next(got)["task_id"] == task
    redis_server.publish_task("t0", n=1)
    assert next(got)["data"] == {"n": 1}


def test_a_state_that_is_larger_than_a_queue_is_delivered(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(**SETTINGS)
    for number in range(6):
        redis_server.publish_task("t", **{f"field{number}": "x" * 60_000})
    persisted(redis_server, 6)
    got = messages(relay, {"type": "subscribe", "task_id": "t"})
    assert next(got) == {"type": "subscribed", "task_id": "t"}
    assert len(next(got)["data"]) == 6
    redis_server.publish_task("t", n=1)
    assert next(got)["data"] == {"n": 1}


def test_a_long_history_comes_at_the_pace_of_the_reader(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(**SETTINGS)
    redis_server.publish_task("t", n=0)
    persisted(redis_server, 1)
    position = next(messages(relay, {"type": "subscribe", "task_id": "t", "position": None}))["position"]
    publish(redis_server, range(1, 301))
    persisted(redis_server, 301)
    got = messages(relay, {"type": "subscribe", "task_id": "t", "position": position})
    answer = next(got)
    assert (answer["recovered"], answer["position"]["offset"]) == (True, 301)
    for number in range(1, 401):
        if number == 100:  # what is published meanwhile follows
            publish(redis_server, range(301, 401))
        update = next(got)
        assert (update["data"]["n"], update["position"]["offset"]) == (number, number + 1)
