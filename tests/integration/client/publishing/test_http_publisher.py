"""Publishing over HTTP from Python, against a real relay."""

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from relay_client.errors import DeliveryRefused, DeliveryTimedOut
from relay_client.http import Publisher

from tests.conftest import StartRelay
from tests.harness import RedisServer, RelayServer, eventually
from tests.http_server import RequestHandler, serving
from tests.integration.client.reading import log_of, state_of
from tests.ports import free_port


@pytest.fixture
def relay(share_relay: StartRelay) -> RelayServer:
    return share_relay(extra_channels="news*")


@pytest.fixture
def publisher(relay: RelayServer) -> Iterator[Publisher]:
    with Publisher(f"http://127.0.0.1:{relay.port}", deadline=10, timeout=5) as publisher:
        yield publisher


def test_all_that_can_be_published(publisher: Publisher, shared_redis: RedisServer) -> None:
    first = publisher.publish_task_update("a/b", {"status": "in_progress", "at": {1}}, owner="me", parent_id="p")
    second = publisher.publish("task:a/b", {"progress": 40})
    assert (first.offset, second.offset, first.epoch) == (1, 2, second.epoch)
    assert state_of(shared_redis, "a/b") == {"status": "in_progress", "at": [1], "progress": 40}
    assert (
        publisher.publish_general_update({"note": "x"}).offset == publisher.publish("general", {"note": "y"}).offset - 1
    )
    assert publisher.publish("news", {"headline": "rain"}).offset == 1
    assert publisher.heartbeat("a/b")
    assert not publisher.heartbeat("none")
    assert publisher.cancel("a/b", "too slow")
    publisher.publish_task_update("a/b", {"status": "cancelled"})
    assert not publisher.cancel("a/b")
    assert not publisher.cancel("none")


def test_a_key_is_one_update(publisher: Publisher, shared_redis: RedisServer) -> None:
    positions = {publisher.publish_task_update("t", {"a": 1}, idempotency_key="k") for _ in range(3)}
    assert len(positions) == 1
    with pytest.raises(DeliveryRefused, match="idempotency_key_reused"):
        publisher.publish_task_update("t", {"a": 2}, idempotency_key="k")
    assert len(log_of(shared_redis, "task:t")) == 1


@pytest.mark.parametrize(
    ("channel", "data"),
    [
        ("task:", {}),
        ("other", {"a": 1}),
        ("task:t", {"a": object()}),
        ("task:t", {"a": "x" * 300_000}),
        ("x" * 256, {}),
    ],
)
def test_what_cannot_be_published_is_an_error_at_once(channel: str, data: Any, publisher: Publisher) -> None:
    with pytest.raises((ValueError, TypeError)):
        publisher.publish(channel, data)


@pytest.mark.parametrize("url", ["relay.example", "redis://127.0.0.1", "https://me:secret@relay.example"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="relay's URL"):
        Publisher(url)


def test_threads_publish_at_the_same_time(publisher: Publisher, shared_redis: RedisServer) -> None:
    def work(number: int) -> None:
        for progress in range(10):
            publisher.publish_task_update(f"t{number}", {"progress": progress})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in range(4):
        assert [data["progress"] for _, _, data in log_of(shared_redis, f"task:t{number}")] == list(range(10))


def test_an_outage_of_redis_is_waited_for(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(redis_timeout=0.3)
    outcome: list[Any] = []
    with Publisher(f"ws://127.0.0.1:{relay.port}/ws/tasks", deadline=30, timeout=5) as publisher:
        publisher.publish_task_update("t", {"a": 0})
        redis_server.freeze()
        thread = threading.Thread(target=lambda: outcome.append(publisher.publish_task_update("t", {"a": 1})))
        thread.start()
        eventually(lambda: relay.get("/readyz")[0] == 503)
        redis_server.thaw()
        thread.join(30)
    assert outcome[0].offset == 2
    assert [data["a"] for _, _, data in log_of(redis_server, "task:t")] == [0, 1]


class _Proxy(RequestHandler):
    """Something that is no relay."""

    keys: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        self.keys.append(self.headers["Idempotency-Key"])
        self.answer(b"<html>Bad gateway</html>", status=502)


def test_what_no_relay_confirms_is_an_error_by_the_deadline() -> None:
    with Publisher(f"http://127.0.0.1:{free_port()}", deadline=0.3, timeout=0.2) as publisher:
        with pytest.raises(DeliveryTimedOut) as refused:
            publisher.publish_task_update("t", {"a": 1})
        assert not refused.value.may_have_arrived
        assert refused.value.channel == "task:t"
    with serving(_Proxy) as port:
        publisher = Publisher(f"http://127.0.0.1:{port}", deadline=1, timeout=0.5)
        with publisher, pytest.raises(DeliveryTimedOut, match="502"):
            publisher.publish_task_update("t", {"a": 1})
    assert len(_Proxy.keys) > 1
    assert len(set(_Proxy.keys)) == 1
