"""Publishers on a Valkey that is killed, frozen, full, and taken away."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

import pytest
from relay_client import (
    BackgroundDeliveryError,
    BufferFull,
    DeliveryTimedOut,
    NotDelivered,
    Publisher,
)
from relay_wire import keys

from tests.harness import RedisServer, eventually
from tests.integration.client.flavours import Flavour, publisher
from tests.integration.client.publishing.received import KEEP_ALL, ReceivedMessages
from tests.integration.client.reading import log_of


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


def test_a_forgotten_script_is_no_obstacle(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url) as client, redis_server.client() as redis:
        for offset in range(1, 4):
            assert client.publish_task_update("t", {"n": offset}).offset == offset
            redis.script_flush()


def test_without_memory_it_is_delivered_live(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url) as client, redis_server.client() as redis:
        client.publish_task_update("t", {"n": 1})
        redis.config_set("maxmemory", "1")
        with ReceivedMessages(redis_server, keys.pubsub_channel("task:t"), keys.pubsub_channel("general")) as received:
            assert client.publish_task_update("t", {"n": 2}) is None
            assert received.next()[1] == b'- 0 task_update\n{"n":2}'
            announcement = {"type": "task_created", "task_info": {"task_id": "new", "status": "pending"}}
            assert client.publish_general_update(announcement) is None
            assert received.next()[1].startswith(b"- 0 general_update\n")
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
        # For the primary it is online a second before it has loaded what it got, and acknowledges.
        replicating = stack.enter_context(replica.client())
        eventually(lambda: replicating.info("replication")["master_link_status"] == "up")
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
        with ReceivedMessages(redis_server, "general_updates", "task_updates") as received:
            redis_server.freeze()
            try:
                with pytest.raises(NotDelivered, match="not sent again") as caught:
                    client.publish_general_update({"n": 2}, durable=False)
                assert caught.value.may_have_arrived
            finally:
                redis_server.thaw()
            assert json.loads(received.next()[1])["data"] == {"n": 2}
            redis_server.kill()
            redis_server.start()
        # Not sent for want of a connection: that is tried again.
        client.publish_general_update({"n": 3}, durable=False)
        client.publish_task_update("t", {"n": 4}, durable=False)
