"""Publishing in its three flavours, on a real Valkey that is killed, frozen, full, and taken away."""

import json
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from relay_client import (
    BackgroundDeliveryError,
    BufferFull,
    DeliveryRefused,
    DeliveryTimedOut,
    NotDelivered,
    Position,
    Publisher,
    PublisherClosed,
)
from relay_wire import keys
from relay_wire.publications import Retention

from tests.harness import RedisServer, eventually
from tests.integration.client.flavours import Flavour, publisher
from tests.integration.client.reading import log_of, state_of

#: What tests look at must not be trimmed meanwhile.
KEEP_ALL = Retention(history_size=1_000_000)


class Heard:
    """What is published on some Redis channels, as it comes."""

    def __init__(self, server: RedisServer, *channels: str) -> None:
        self._client = server.client()
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._pubsub.subscribe(*channels)
        eventually(lambda: self._pubsub.subscribed)
        self._pubsub.get_message(timeout=5.0)

    def next(self) -> tuple[str, bytes]:
        message = eventually(lambda: self._pubsub.get_message(timeout=0.1))
        return message["channel"].decode(), message["data"]

    def __enter__(self) -> "Heard":
        return self

    def __exit__(self, *error: object) -> None:
        self._pubsub.close()
        self._client.close()


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
        Heard(redis_server, "task_updates", "general_updates", "agent:x") as heard,
    ):
        assert client.publish_task_update(7, {"progress": 40}, durable=False) is None
        assert client.publish_general_update({"a": 1}, durable=False) is None
        assert client.publish("agent:x", {"subreddit": "x"}, durable=False) is None
        messages = [heard.next() for _ in range(3)]
    assert [channel for channel, _ in messages] == ["task_updates", "general_updates", "agent:x"]
    task, general, agent = [json.loads(message) for _, message in messages]
    assert abs(task.pop("timestamp") - general.pop("timestamp")) < 5
    assert task == {"type": "task_update", "task_id": "7", "data": {"progress": 40}}
    assert general == {"type": "general_update", "data": {"a": 1}}
    assert agent == {"subreddit": "x"}


def test_an_announced_task_has_a_state(redis_server: RedisServer) -> None:
    with Publisher(redis_server.url) as client:
        info = {"task_id": 5, "status": "pending", "tier": "gold"}
        client.publish_general_update({"type": "task_created", "task_info": info})
        assert state_of(redis_server, "5") == {"status": "pending", "tier": "gold"}
        client.publish_task_update(5, {"status": "in_progress"})
        client.publish_general_update({"type": "task_created", "task_info": info})
        assert state_of(redis_server, "5") == {"status": "in_progress", "tier": "gold"}
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


def test_killed_and_started_again_nothing_is_lost_nor_twice_nor_out_of_order(
    flavour: Flavour, lasting_server: RedisServer
) -> None:
    publishers, stop = 4, threading.Event()
    acknowledged: dict[int, list[int]] = {number: [] for number in range(publishers)}

    with publisher(flavour, lasting_server.url, retention=KEEP_ALL, timeout=1.0) as client:

        def publish(number: int) -> None:
            count = 0
            while not stop.is_set():
                assert client.publish_task_update("t", {"by": number, "n": count}) is not None
                acknowledged[number].append(count)
                count += 1

        with ThreadPoolExecutor(publishers) as pool:
            running = [pool.submit(publish, number) for number in range(publishers)]
            try:
                for _ in range(2):
                    before = len(acknowledged[0])
                    eventually(lambda before=before: len(acknowledged[0]) > before + 20)  # type: ignore[misc]
                    lasting_server.kill()
                    sleep(0.2)
                    lasting_server.start()
                before = len(acknowledged[0])
                eventually(lambda: len(acknowledged[0]) > before + 20)
            finally:
                stop.set()
            for each in running:
                each.result()
    log = log_of(lasting_server, "task:t")
    assert [offset for offset, _, _ in log] == list(range(1, len(log) + 1))
    for number in range(publishers):
        assert [data["n"] for _, _, data in log if data["by"] == number] == acknowledged[number]


def test_posted_updates_survive_a_restart_in_order(flavour: Flavour, lasting_server: RedisServer) -> None:
    with publisher(flavour, lasting_server.url, retention=KEEP_ALL, timeout=1.0) as client:
        for number in range(600):
            if number == 200:
                lasting_server.kill()
            if number == 400:
                lasting_server.start()
            client.post_task_update("t", {"n": number})
            if number % 100 == 0:
                sleep(0.02)
        client.flush()
        assert client.waiting == 0
    assert [data["n"] for _, _, data in log_of(lasting_server, "task:t")] == list(range(600))


def test_a_server_that_freezes_for_a_moment_costs_nothing(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url, timeout=0.3) as client, ThreadPoolExecutor(8) as pool:
        client.publish_task_update("t", {"n": -1})
        redis_server.freeze()
        try:
            waiting = []
            for number in range(8):
                waiting.append(pool.submit(client.publish_task_update, "t", {"n": number}))
                eventually(lambda number=number: client.waiting == number + 1)  # type: ignore[misc]
            sleep(0.5)
        finally:
            redis_server.thaw()
        positions = [each.result() for each in waiting]
    assert [position.offset for position in positions] == list(range(2, 10))
    assert [data["n"] for _, _, data in log_of(redis_server, "task:t")] == list(range(-1, 8))


def test_a_full_buffer_is_an_error_and_what_is_in_it_arrives(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url, timeout=1.0, max_waiting=5) as client, ThreadPoolExecutor(5) as pool:
        redis_server.freeze()
        try:
            waiting = [pool.submit(client.publish_task_update, "t", {"n": number}) for number in range(5)]
            eventually(lambda: client.waiting == 5)
            for refused in (client.publish_task_update, client.post_task_update):
                started = monotonic()
                with pytest.raises(BufferFull, match="5 updates"):
                    refused("t", {"n": 5})
                assert monotonic() - started < 0.5
        finally:
            redis_server.thaw()
        assert {each.result().offset for each in waiting} == {1, 2, 3, 4, 5}


def test_no_server_is_an_error_by_the_deadline(flavour: Flavour, redis_server: RedisServer) -> None:
    redis_server.kill()
    with publisher(flavour, redis_server.url, deadline=0.3, timeout=0.2) as client:
        started = monotonic()
        with pytest.raises(DeliveryTimedOut, match=rf"0\.3 s.*{redis_server.port}") as caught:
            client.publish_task_update("t", {"n": 1})
        assert 0.2 < monotonic() - started < 1.5
        assert (caught.value.channel, caught.value.may_have_arrived) == ("task:t", False)
        client.post_task_update("t", {"n": 2})
        client.post_general_update({"n": 3})
        with pytest.raises(BackgroundDeliveryError, match="2 posted updates") as lost:
            client.flush()
        assert [each.channel for each in lost.value.failures] == ["task:t", "general"]
        client.flush()  # told once


def test_a_frozen_server_is_an_error_by_the_deadline(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url, deadline=0.6, timeout=0.25) as client:
        client.publish_task_update("t", {"n": 0})
        redis_server.freeze()
        try:
            started = monotonic()
            with pytest.raises(DeliveryTimedOut) as caught:
                client.publish_task_update("t", {"n": 1})
            assert 0.5 < monotonic() - started < 1.5
            assert caught.value.may_have_arrived
        finally:
            redis_server.thaw()
        client.publish_task_update("t", {"n": 2})
    assert {data["n"] for _, _, data in log_of(redis_server, "task:t")} >= {0, 2}


def test_leaving_the_block_tells_what_was_lost(flavour: Flavour, redis_server: RedisServer) -> None:
    redis_server.kill()

    def post(error: Exception | None) -> None:
        with publisher(flavour, redis_server.url, deadline=0.2, timeout=0.2) as client:
            client.post_task_update("t", {"n": 1})
            if error is not None:
                raise error

    with pytest.raises(BackgroundDeliveryError, match="1 posted"):
        post(None)
    with pytest.raises(ZeroDivisionError):  # as it is, whatever else was lost
        post(ZeroDivisionError())


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


def test_a_forgotten_script_is_no_obstacle(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url) as client, redis_server.client() as redis:
        for offset in range(1, 4):
            assert client.publish_task_update("t", {"n": offset}).offset == offset
            redis.script_flush()


def test_without_memory_it_is_delivered_live(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url) as client, redis_server.client() as redis:
        client.publish_task_update("t", {"n": 1})
        redis.config_set("maxmemory", "1")
        with Heard(redis_server, keys.pubsub_channel("task:t"), keys.pubsub_channel("general")) as heard:
            assert client.publish_task_update("t", {"n": 2}) is None
            assert heard.next()[1] == b'- 0 task_update\n{"n":2}'
            announcement = {"type": "task_created", "task_info": {"task_id": "new", "status": "pending"}}
            assert client.publish_general_update(announcement) is None
            assert heard.next()[1].startswith(b"- 0 general_update\n")
        redis.config_set("maxmemory", "0")
        assert client.publish_task_update("t", {"n": 3}).offset == 2


def test_replicas_are_waited_for(redis_server: RedisServer, tmp_path: Path) -> None:
    with ExitStack() as stack:
        directory = tmp_path / "replica"
        directory.mkdir()
        options = ("--save", "", "--replicaof", f"127.0.0.1 {redis_server.port}")
        redis = stack.enter_context(redis_server.client())
        redis.config_set("repl-diskless-sync-delay", "0")
        replica = stack.enter_context(RedisServer(directory, *options))
        eventually(lambda: redis.info("replication").get("slave0", {}).get("state") == "online")
        client = stack.enter_context(Publisher(redis_server.url, wait_replicas=1, timeout=0.3, deadline=1.2))
        assert client.publish_task_update("t", {"n": 1}) is not None
        pool = stack.enter_context(ThreadPoolExecutor(1))
        replica.freeze()
        try:
            waiting = pool.submit(client.publish_task_update, "t", {"n": 2})
            eventually(lambda: len(log_of(redis_server, "task:t")) == 2)
            # Over the next connection it is a duplicate, with no write that WAIT could be about.
            redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            with pytest.raises(DeliveryTimedOut, match="0 replicas have it") as caught:
                waiting.result()
            assert caught.value.may_have_arrived
        finally:
            replica.thaw()
        assert client.publish_task_update("t", {"n": 3}) is not None
        assert [data["n"] for _, _, data in log_of(replica, "task:t")] == [1, 2, 3]


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


def test_what_was_posted_is_flushed_when_the_program_ends(redis_server: RedisServer) -> None:
    program = (
        "import sys; from relay_client import Publisher; publisher = Publisher(sys.argv[1], deadline=0.3, timeout=0.2);"
        "[publisher.post_task_update('t', {'n': n}) for n in range(300)]"
    )
    command = [sys.executable, "-c", program, redis_server.url]
    subprocess.run(command, check=True, timeout=20)
    assert len(log_of(redis_server, "task:t")) == 300
    redis_server.kill()
    ended = subprocess.run(command, check=True, timeout=20, capture_output=True, text=True)
    assert "300 posted updates were not delivered" in ended.stderr


def test_a_plain_publish_is_not_sent_twice(redis_server: RedisServer) -> None:
    with publisher("threads", redis_server.url, timeout=0.3, deadline=3.0) as client:
        client.publish_general_update({"n": 1}, durable=False)
        with Heard(redis_server, "general_updates", "task_updates") as heard:
            redis_server.freeze()
            try:
                with pytest.raises(NotDelivered, match="not sent again") as caught:
                    client.publish_general_update({"n": 2}, durable=False)
                assert caught.value.may_have_arrived
            finally:
                redis_server.thaw()
            assert json.loads(heard.next()[1])["data"] == {"n": 2}
            redis_server.kill()
            redis_server.start()
        # Not sent for want of a connection: that is tried again.
        client.publish_general_update({"n": 3}, durable=False)
        client.publish_task_update("t", {"n": 4}, durable=False)


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
