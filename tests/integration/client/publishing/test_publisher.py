"""Publishing in its three flavours, on a real Valkey."""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import pytest
from relay_client import (
    DeliveryRefused,
    Position,
    Publisher,
    PublisherClosed,
)
from relay_wire import keys

from tests.harness import RedisServer
from tests.integration.client.flavours import Flavour, publisher
from tests.integration.client.publishing.received import KEEP_ALL, ReceivedMessages
from tests.integration.client.reading import log_of, state_of


def test_updates_have_positions_a_log_and_a_state(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url) as client:
        first = client.publish_task_update("t", {"status": "in_progress", "tags": [], "big": 2**60})
        second = client.publish("task:t", {"progress": 40, "message": "läuft"})
        general = client.publish_general_update({"type": "note"})
        named = client.publish("agent:x", {"action": "post"})
    assert isinstance(first, Position)
    assert (first.epoch, first.offset, second.offset) == (second.epoch, 1, 2)
    assert general.offset == named.offset == 1
    assert log_of(redis_server, "task:t") == [
        (1, "task_update", {"status": "in_progress", "tags": [], "big": 2**60}),
        (2, "task_update", {"progress": 40, "message": "läuft"}),
    ]
    assert log_of(redis_server, "general") == [(1, "general_update", {"type": "note"})]
    assert log_of(redis_server, "agent:x") == [(1, "message", {"action": "post"})]
    assert state_of(redis_server, "t") == {
        "status": "in_progress",
        "tags": [],
        "big": 2**60,
        "progress": 40,
        "message": "läuft",
    }
    with redis_server.client() as redis:
        assert redis.zscore(keys.running(int(keys.tag_of(keys.pubsub_channel("task:t")))), "t") is not None


def test_plain_publishing_is_what_existing_services_send(flavour: Flavour, redis_server: RedisServer) -> None:
    with (
        publisher(flavour, redis_server.url) as client,
        ReceivedMessages(redis_server, "task_updates", "general_updates", "agent:x") as received,
    ):
        assert client.publish_task_update(7, {"progress": 40}, durable=False) is None
        assert client.publish_general_update({"a": 1}, durable=False) is None
        assert client.publish("agent:x", {"subreddit": "x"}, durable=False) is None
        messages = [received.next() for _ in range(3)]
    assert [channel for channel, _ in messages] == ["task_updates", "general_updates", "agent:x"]
    task, general, agent = [json.loads(message) for _, message in messages]
    assert abs(task.pop("timestamp") - general.pop("timestamp")) < 5
    assert task == {"type": "task_update", "task_id": "7", "data": {"progress": 40}}
    assert general == {"type": "general_update", "data": {"a": 1}}
    assert agent == {"subreddit": "x"}


def test_an_announced_task_has_a_state(redis_server: RedisServer) -> None:
    with Publisher(redis_server.url) as client:
        info = {"task_id": 5, "status": "pending", "tier": "gold"}
        announcement = {"type": "task_created", "task_info": info}
        client.publish_general_update(announcement, idempotency_key="once")
        assert state_of(redis_server, "5") == {"status": "pending", "tier": "gold"}
        client.publish_task_update(5, {"status": "in_progress", "progress": 1})
        client.publish_general_update(announcement, idempotency_key="once")
        assert state_of(redis_server, "5") == {"status": "in_progress", "tier": "gold", "progress": 1}
        client.publish_general_update(announcement)  # another one: the id is used again
        assert state_of(redis_server, "5") == {"status": "pending", "tier": "gold"}
        client.publish_general_update({"type": "task_created", "task_info": "nothing of ours"})


def test_an_idempotency_key_makes_two_one(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url) as client:
        first = client.publish_task_update("t", {"n": 1}, idempotency_key="once")
        assert client.publish_task_update("t", {"n": 1}, idempotency_key="once") == first
        assert client.publish_task_update("t", {"n": 1}).offset == 2


@pytest.mark.parametrize(
    ("publish", "error"),
    [
        (lambda client: client.publish_task_update("", {"a": 1}), "1 to 255"),
        (lambda client: client.publish_task_update("x" * 256, {"a": 1}), "1 to 255"),
        (lambda client: client.publish_task_update(True, {"a": 1}), "str or an int"),
        (lambda client: client.publish_task_update("t", "progress=40"), "mapping"),
        (lambda client: client.publish_task_update("t", {1: 2}), "names of fields"),
        (lambda client: client.publish_task_update("t", {"a": float("nan")}), "JSON"),
        (lambda client: client.publish_task_update("t", {"a": object()}), "object is not JSON"),
        (lambda client: client.publish_task_update("t", {"a": b"x"}), "decode"),
        (lambda client: client.publish_task_update("t", {"a": "x" * 262_144}), "RELAY_MAX_UPDATE_BYTES"),
        (lambda client: client.publish_task_update("t", {f"f{n}": n for n in range(257)}), "256 fields"),
        (lambda client: client.publish("task_updates", {"a": 1}), "task:<id>"),
        (lambda client: client.publish("relay:{1}:task:t", {"a": 1}), "task:<id>"),
        (lambda client: client.publish("", {"a": 1}), "1 to 255"),
    ],
)
def test_what_cannot_be_published_is_an_error_at_once(publish: Callable[[Any], Any], error: str) -> None:
    client = Publisher("redis://127.0.0.1:1/0")  # where nobody listens: it is not even tried
    with pytest.raises((ValueError, TypeError), match=error):
        publish(client)
    assert client.waiting == 0
    client.close()


def test_values_that_services_use_have_a_json_form(redis_server: RedisServer) -> None:
    with Publisher(redis_server.url) as client:
        client.publish_task_update("t", {"at": datetime(2024, 5, 1, 12, tzinfo=UTC)})
    assert state_of(redis_server, "t") == {"at": "2024-05-01T12:00:00+00:00"}


def test_closed_is_an_error(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url) as client:
        client.post_task_update("t", {"n": 1})
        client.close()
        with pytest.raises(PublisherClosed):
            client.publish_task_update("t", {"n": 2})
        client.close()
    assert [data for _, _, data in log_of(redis_server, "task:t")] == [{"n": 1}]


def test_refusals_are_told_at_once(redis_server: RedisServer) -> None:
    host = redis_server.url.removeprefix("redis://")
    with redis_server.client() as redis:
        redis.execute_command(
            "ACL", "SETUSER", "reader", "on", ">pw", "+@all", "-evalsha", "-eval", "allchannels", "allkeys"
        )
    for login, reason in (("reader:pw", "(?i)permission"), ("reader:wr0ng", "(?i)wrongpass|invalid username")):
        with publisher("asyncio", f"redis://{login}@{host}") as client:
            started = monotonic()
            with pytest.raises(DeliveryRefused, match=reason) as caught:
                client.publish_task_update("t", {"n": 1})
            assert monotonic() - started < 2.0
            assert "wr0ng" not in str(caught.value)


def test_threads_share_one_publisher(redis_server: RedisServer) -> None:
    with Publisher(redis_server.url, retention=KEEP_ALL) as client:

        def publish(number: int) -> list[int]:
            positions = [client.publish_task_update("t", {"by": number, "n": count}) for count in range(50)]
            return [position.offset for position in positions if position is not None]

        with ThreadPoolExecutor(8) as pool:
            offsets = list(pool.map(publish, range(8)))
    assert sorted(offset for some in offsets for offset in some) == list(range(1, 401))
    assert all(some == sorted(some) for some in offsets)
    with redis_server.client() as redis:
        assert redis.info("stats")["total_connections_received"] < 10


def _publish_in_child(client: Publisher) -> None:
    assert client.waiting == 0
    client.publish_task_update("t", {"from": "child"})
    client.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_goes_on_by_itself(redis_server: RedisServer) -> None:
    with Publisher(redis_server.url, timeout=1.0) as client:
        client.publish_task_update("t", {"from": "parent"})
        redis_server.freeze()
        try:
            client.post_task_update("t", {"from": "parent's buffer"})  # a thread is in the midst of sending it
            child = multiprocessing.get_context("fork").Process(target=_publish_in_child, args=(client,))
            child.start()
        finally:
            redis_server.thaw()
        child.join(20)
        assert child.exitcode == 0
        client.flush()
        client.publish_task_update("t", {"from": "parent again"})
    log = [data["from"] for _, _, data in log_of(redis_server, "task:t")]
    assert sorted(log) == ["child", "parent", "parent again", "parent's buffer"]


def test_urls_and_settings_come_from_the_environment(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("REDIS_PORT", str(redis_server.port))
    monkeypatch.setenv("RELAY_HISTORY_TTL", "77")
    with Publisher() as client:
        client.publish_task_update("t", {"n": 1})
    with redis_server.client() as redis:
        assert 0 < int(redis.ttl(keys.log("task:t"))) <= 77
    for name, value in (("RELAY_HISTORY_TTL", "x"), ("REDIS_PORT", "70000"), ("REDIS_URL", "http://x:secret@y")):
        monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=name) as caught:
            Publisher()
        assert "secret" not in str(caught.value)
