"""Server-sent events: the same updates, resumable by id, over the socket and over ASGI."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec
import pytest
from relay_client import Publisher

from relay.protocols.event_ids import positions_of
from tests.conftest import StartRelay
from tests.harness import PATIENCE, Kind, RedisServer, RelayServer, eventually


class Events:
    """Parses an event stream as an EventSource does."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.last_id = ""
        self.retry = 0
        self.heartbeats = 0

    def next(self) -> tuple[str, Any]:
        kind, data = "message", ""
        for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "id":
                self.last_id = value
            elif field == "event":
                kind = value
            elif field == "data":
                data += value
            elif field == "retry":
                self.retry = int(value)
            elif line.startswith(":"):
                self.heartbeats += 1
            elif not line and data:
                return kind, msgspec.json.decode(data)
        raise EOFError


@contextmanager
def events(relay: RelayServer, query: str, last_event_id: str = "", **headers: str) -> Iterator[Events]:
    if last_event_id:
        headers["Last-Event-ID"] = last_event_id
    url = f"http://127.0.0.1:{relay.port}/events?{query}"
    with httpx.stream("GET", url, headers=headers, timeout=20) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Events(response.iter_lines())


@pytest.mark.parametrize(("kind", "hijack_sockets"), [("hypercorn", True), ("hypercorn", False), ("uvicorn", True)])
def test_events_resume(kind: Kind, hijack_sockets: bool, shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay(kind, hijack_sockets=hijack_sockets)
    shared_redis.publish_task("a", n=0)
    eventually(lambda: relay.get("/api/tasks/a")[0] == 200)
    with events(relay, "task=a&task=b&general=1") as stream:
        assert stream.next() == ("task_update", {"type": "task_update", "task_id": "a", "data": {"n": 0}})
        eventually(lambda: relay.metric('relay_recoveries_total{outcome="new"}') == 3)
        shared_redis.publish_task("b", n=1)
        shared_redis.publish_general(news=True)
        assert stream.next() == ("task_update", {"type": "task_update", "task_id": "b", "data": {"n": 1}})
        seen = stream.last_id
        assert stream.next() == ("general_update", {"type": "general_update", "data": {"news": True}})
        assert stream.retry > 0
    shared_redis.publish_task("a", n=2)
    shared_redis.publish_task("b", n=3)
    eventually(lambda: '"n":3' in relay.get("/api/tasks/b")[1])
    with events(relay, "task=a&task=b&general=1", seen) as stream:
        got = [stream.next()[1] for _ in range(3)]
        assert {"type": "task_update", "task_id": "a", "data": {"n": 2}} in got
        assert {"type": "task_update", "task_id": "b", "data": {"n": 3}} in got
        assert {"type": "general_update", "data": {"news": True}} in got, "what came after the id that was seen"
    with events(relay, f"task=a&last_event_id={seen}") as stream:
        assert stream.next()[1]["data"] == {"n": 2}
    expected = "hijacked" if (kind, hijack_sockets) == ("hypercorn", True) else "asgi"
    assert relay.metric(f'relay_connections_accepted_total{{transport="{expected}"}}') == 3
    eventually(lambda: relay.metric(f'relay_connections{{transport="{expected}"}}') == 0)


@pytest.mark.parametrize(("kind", "hijack_sockets"), [("hypercorn", True), ("hypercorn", False), ("uvicorn", True)])
def test_heartbeats_are_comments(
    kind: Kind, hijack_sockets: bool, shared_redis: RedisServer, share_relay: StartRelay
) -> None:
    relay = share_relay(kind, hijack_sockets=hijack_sockets, heartbeat_interval=0.5)
    with events(relay, "task=a") as stream:
        eventually(lambda: relay.metric('relay_recoveries_total{outcome="new"}') == 1)
        deadline = time.monotonic() + PATIENCE
        n = 0
        while stream.heartbeats < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            n += 1
            shared_redis.publish_task("a", n=n)
            assert stream.next()[1]["data"] == {"n": n}


def test_an_id_says_what_came_before_it_when_channels_mix_in_one_turn(
    shared_redis: RedisServer, share_relay: StartRelay
) -> None:
    relay = share_relay()
    numbers = {"a": 0, "b": 0}
    sequence = "abaabbab"
    with Publisher(shared_redis.url) as publisher, events(relay, "task=a&task=b") as stream:
        for task in "ab":
            publisher.publish_task_update(task, {"n": 0})
            stream.next()
        relay.freeze_workers()
        for task in sequence:
            numbers[task] += 1
            publisher.publish_task_update(task, {"n": numbers[task]})
        relay.thaw_workers()
        seen = {"a": 1, "b": 1}
        for task in sequence:
            _, data = stream.next()
            assert data["task_id"] == task
            seen[task] += 1
            positions = positions_of(stream.last_id, ["task:a", "task:b"])
            assert positions is not None
            assert {name: at.offset for name, at in positions.items()} == {f"task:{t}": seen[t] for t in "ab"}


def test_what_cannot_be_resumed_is_announced(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay(heartbeat_interval=1)
    shared_redis.publish_task("a", n=0, status="in_progress")
    eventually(lambda: relay.get("/api/tasks/a")[0] == 200)
    with events(relay, "task=a", "junk") as stream:
        assert stream.next() == ("reset", {"channel": "task:a"})
        assert stream.next()[1]["data"] == {"n": 0, "status": "in_progress"}
        seen = stream.last_id
    with shared_redis.client() as client:
        client.flushall()
    shared_redis.publish_task("a", n=1)
    eventually(lambda: '"n":1' in relay.get("/api/tasks/a")[1])
    with events(relay, "task=a", seen) as stream:
        assert stream.next() == ("reset", {"channel": "task:a"})
        assert stream.next()[1]["data"] == {"n": 1}
        shared_redis.publish_task("a", n=2)
        assert stream.next()[1]["data"] == {"n": 2}


def test_shutdown_tells_when_to_come_back(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(heartbeat_interval=1)
    with events(relay, "task=a") as stream:
        eventually(lambda: relay.metric('relay_connections{transport="hijacked"}') == 1)
        stream.retry = 0
        relay.child.terminate()
        with pytest.raises(EOFError):
            stream.next()
        assert 100 <= stream.retry <= 1100
    assert relay.wait() == 0


def test_bad_requests(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(max_subscriptions=2, allowed_origins="https://app.example")
    assert relay.get("/events")[0] == 400
    assert relay.get("/events?task=")[0] == 400
    assert relay.get("/events?task=1&task=2&task=3")[0] == 400
    assert relay.get("/events?channel=secret")[0] == 400
    with events(relay, "task=1", Origin="https://app.example"):
        pass
    url = f"http://127.0.0.1:{relay.port}/events?task=1"
    assert httpx.get(url, headers={"Origin": "https://evil.example"}).status_code == 403
