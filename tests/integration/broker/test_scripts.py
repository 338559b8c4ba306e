"""The scripts on a real Valkey: all or nothing, bounds, and what outsiders have put under Relay's keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
import trio
from redis.exceptions import NoPermissionError
from relay_wire import keys, publications
from relay_wire.publications import Occurrence, Retention, ScriptCall

from relay.broker import script_calls
from relay.broker.service import RedisBroker
from relay.core.errors import BrokerError, BrokerRefused, StateTooLarge
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from tests.harness import RedisServer
from tests.integration.broker.durable import check_writes, opened

RETENTION = Retention()
CHANNEL = "task:t"
TASK_KEYS = dict(
    zip(("meta", "log", "state", "generation", "tasks", "running"), keys.channel_keys(CHANNEL), strict=True)
)


def update(data: bytes, channel: str = CHANNEL, retention: Retention = RETENTION, key: str | None = None) -> ScriptCall:
    return script_calls.publish_call(channel, "task_update", data, retention, idempotency_key=key)


def ingested(data: bytes) -> ScriptCall:
    return script_calls.ingest_call(
        Update(CHANNEL, "task_update", data, 0.0), Occurrence("digest", 1, 0, 30_000), RETENTION
    )


def created(fields: dict[str, bytes]) -> ScriptCall:
    return publications.create_call("t", fields, b"{}", RETENTION, status="in_progress")


async def run(redis: RedisBroker, call: ScriptCall) -> Any:
    (answer,) = await redis.run_calls([call])
    return answer


async def publish(redis: RedisBroker, data: bytes, **options: Any) -> Position:
    answer = await run(redis, update(data, **options))
    assert not isinstance(answer, BrokerError), answer
    return publications.publish_result(answer).position


async def read(
    redis: RedisBroker, since: Position | None = None, channel: str = CHANNEL, max_bytes: int = 1 << 20, **options: Any
) -> Snapshot:
    answer = await run(redis, script_calls.read_call(channel, since, RETENTION, max_bytes, **options))
    assert not isinstance(answer, BrokerError), answer
    snapshot = script_calls.read_snapshot(channel, answer, 0.0)
    assert not isinstance(snapshot, BrokerError), snapshot
    return snapshot


def everything(server: RedisServer) -> dict[bytes, bytes | None]:
    """All that Redis holds, but for how long: that may be renewed."""
    with server.client() as client:
        return {key: client.dump(key) for key in client.scan_iter("*")}


def listen(client: redis_py.Redis, channel: str = CHANNEL) -> Any:
    pubsub = client.pubsub()  # type: ignore[no-untyped-call]
    pubsub.subscribe(keys.pubsub_channel(channel))
    assert pubsub.get_message(timeout=5)
    return pubsub


# Reading.


async def test_reading_writes_nothing_and_its_position_can_be_resumed_from(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        before = everything(redis_server)
        first, general = await read(redis), await read(redis, channel="general")
        assert (first.top.offset, first.state) == (0, None)
        assert first.top.epoch != general.top.epoch
        assert await read(redis) == first
        assert (await read(redis, first.top, is_relay_position=True)).entries == ()
        assert everything(redis_server) == before
        assert await publish(redis, b'{"n":1}') == (first.top.epoch, 1)
        entries = (await read(redis, first.top)).entries
        assert entries is not None
        assert [entry.data for entry in entries] == [b'{"n":1}']


@pytest.mark.parametrize("script", ["publish", "create", "ingest"])
async def test_whichever_script_comes_first_adopts_the_epoch_that_was_read(
    script: str, redis_server: RedisServer
) -> None:
    calls = {"publish": update(b'{"n":1}'), "create": created({"n": b"1"}), "ingest": ingested(b'{"n":1}')}
    async with opened(redis_server) as redis:
        top = (await read(redis)).top
        await run(redis, calls[script])
        assert (await read(redis)).top.epoch == top.epoch


async def test_a_channel_that_begins_again_has_another_epoch(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        first = await publish(redis, b'{"n":1}')
        with redis_server.client() as client:
            client.delete(TASK_KEYS["meta"])
        second = await publish(redis, b'{"n":2}')  # with a log and a state of before
        assert second.epoch != first.epoch
        with redis_server.client() as client:
            client.delete(TASK_KEYS["state"])
        assert (await publish(redis, b'{"n":3}')).epoch not in (first.epoch, second.epoch)
        assert (await read(redis)).top.offset == 1
        with redis_server.client() as client:
            client.delete(TASK_KEYS["state"])
        before = (await read(redis)).top
        assert not publications.publish_result(await run(redis, created({"n": b"4"}))).is_duplicate
        assert (await read(redis)).top.epoch != before.epoch
        with redis_server.client() as client:
            client.flushall()
        await check_writes(redis)
        await publish(redis, b'{"n":1}')
        assert (await read(redis)).top.epoch not in (first.epoch, second.epoch, before.epoch)


async def test_after_keys_were_evicted_a_channel_that_begins_again_has_another_epoch(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        first = await publish(redis, b'{"n":1}')
        with redis_server.client() as client:
            client.delete(*list(client.scan_iter("*task:t*")))
            assert (await read(redis)).top.epoch == first.epoch  # nobody can tell
            client.config_set("maxmemory-policy", "allkeys-random")
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 500_000)
            for number in range(200):
                client.set(f"fill:{number}", "x" * 10_000)
            assert client.info("stats")["evicted_keys"] > 0
            client.config_set("maxmemory", "0")
        assert await check_writes(redis) is None
        assert (await publish(redis, b'{"n":2}')).epoch != first.epoch


async def test_after_a_failover_a_channel_that_was_not_replicated_has_another_epoch(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with opened(redis_server) as redis:
        with RedisServer(tmp_path, "--save", "") as other, other.client() as replica:
            replica.replicaof("127.0.0.1", str(redis_server.port))
            while replica.info("replication")["master_link_status"] != "up":  # noqa: ASYNC110
                await trio.sleep(0.01)
            replica.replicaof("NO", "ONE")
            lost = await publish(redis, b'{"n":1}')  # the master that is gone had this
            async with opened(other) as promoted:
                assert (await publish(promoted, b'{"n":2}')).epoch != lost.epoch
                with redis_server.client() as client:
                    assert client.get(TASK_KEYS["generation"]) == replica.get(TASK_KEYS["generation"])


async def test_updates_without_fields_are_one_life(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        positions = [await publish(redis, b"{}") for _ in range(3)]
    assert [offset for _, offset in positions] == [1, 2, 3]
    assert len({epoch for epoch, _ in positions}) == 1


async def test_a_history_that_does_not_fit_comes_in_parts_and_redis_reads_little_more(
    redis_server: RedisServer,
) -> None:
    async with opened(redis_server) as redis:
        start = (await read(redis)).top
        for _ in range(20):
            await publish(redis, b'{"text":"%b"}' % (b"x" * 1000))
        each = 128 + 1011
        assert len((await read(redis, start, max_bytes=20 * each)).entries or ()) == 20
        position, parts = start, []
        while position.offset < 20:
            entries = (await read(redis, position, max_bytes=6 * each)).entries
            assert entries
            parts.append(len(entries))
            position = entries[-1].position or start
        assert parts == [6, 6, 6, 2]
        with redis_server.client() as client:
            client.config_resetstat()
            assert len((await read(redis, start, max_bytes=1)).entries or ()) == 1
            assert client.info("commandstats")["cmdstat_xrange"]["calls"] == 1


async def test_what_a_relay_has_passed_on_and_redis_forgot_is_not_numbered_again(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        start = (await read(redis)).top
        ahead = start._replace(offset=3)
        assert (await read(redis, ahead)).top == start  # a client's word changes nothing
        renumbered = await read(redis, ahead, is_relay_position=True)
        assert renumbered.top.offset == 0
        assert renumbered.top.epoch != start.epoch
        assert await publish(redis, b'{"n":1}') == (renumbered.top.epoch, 1)


# All or nothing.


def wrong(client: redis_py.Redis, key: str) -> None:
    client.delete(key)
    if key.endswith((":meta", ":state")):
        client.lpush(key, "x")
    else:
        client.hset(key, "x", "y")


SCRIPTS: dict[str, Callable[[], ScriptCall]] = {
    "publish": lambda: update(b'{"status":"completed","n":2}'),
    "publish with a key": lambda: update(b'{"status":"completed","n":2}', key="other"),
    "ingest": lambda: ingested(b'{"status":"completed","n":2}'),
    "heartbeat": lambda: publications.heartbeat_call("t", RETENTION),
    "create": lambda: created({"n": b"2"}),
}


@pytest.mark.parametrize("name", [name for name in TASK_KEYS if name != "generation"])
@pytest.mark.parametrize("script", list(SCRIPTS))
async def test_a_key_of_a_wrong_type_leaves_everything_as_it_was(
    name: str, script: str, redis_server: RedisServer
) -> None:
    async with opened(redis_server) as redis:
        await publish(redis, b'{"status":"in_progress","n":1}', key="k")
        await trio.sleep(0.15)  # so that activity is noted again
        with redis_server.client() as client:
            if script == "create":
                client.delete(TASK_KEYS["state"])
            wrong(client, TASK_KEYS[name])
            before = everything(redis_server)
            pubsub = listen(client)
            answer = await run(redis, SCRIPTS[script]())
            if script == "heartbeat" and name == "log":
                return  # it does not touch the log
            assert isinstance(answer, BrokerRefused), answer
            assert "WRONGTYPE" in str(answer)
            assert everything(redis_server) == before
            assert pubsub.get_message(timeout=0.05) is None
            pubsub.close()


@pytest.mark.parametrize("name", ["log", "state", "generation", "tasks", "running"])
async def test_a_new_task_with_a_key_of_a_wrong_type_leaves_nothing(name: str, redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        with redis_server.client() as client:
            wrong(client, TASK_KEYS[name])
        before = everything(redis_server)
        answer = await run(redis, update(b'{"status":"in_progress"}', key="k"))
        assert isinstance(answer, BrokerRefused)
        assert everything(redis_server) == before


async def test_a_log_with_later_entries_than_the_numbers_say_leaves_everything_as_it_was(
    redis_server: RedisServer,
) -> None:
    async with opened(redis_server) as redis:
        await publish(redis, b'{"n":1}')
        with redis_server.client() as client:
            client.xadd(TASK_KEYS["log"], {"x": "y"}, "9-0")
        before = everything(redis_server)
        for key in (None, "k"):
            assert isinstance(await run(redis, update(b'{"n":2}', key=key)), BrokerRefused)
        assert everything(redis_server) == before


async def test_a_publisher_that_may_not_publish_leaves_nothing(redis_server: RedisServer) -> None:
    with redis_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "writer", "on", ">pw", "~*", "+@all", "resetchannels", "&allowed")
    async with opened(redis_server):
        before = everything(redis_server)
        call = update(b'{"n":1}', key="k")
        login: dict[str, Any] = {"username": "writer", "password": "pw"}
        with redis_py.Redis(port=redis_server.port, **login) as client, pytest.raises(NoPermissionError):
            client.eval(call.script.source, len(call.keys), *call.keys, *call.values)
        assert everything(redis_server) == before


@pytest.mark.parametrize("script", list(SCRIPTS))
async def test_without_memory_everything_stays_as_it_was(script: str, redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        await publish(redis, b'{"status":"in_progress","n":1}')
        await trio.sleep(0.15)
        with redis_server.client() as client:
            if script == "create":
                client.delete(TASK_KEYS["state"])
            before = everything(redis_server)
            client.config_set("maxmemory", "1")
            answer = await run(redis, SCRIPTS[script]())
            client.config_set("maxmemory", "0")
        assert isinstance(answer, BrokerRefused)
        assert answer.is_out_of_memory
        assert everything(redis_server) == before


# The bounds of a state.


async def test_a_state_has_a_bound_in_bytes_of_which_the_publisher_is_told(redis_server: RedisServer) -> None:
    small = Retention(max_state_bytes=1000)
    async with opened(redis_server) as redis:
        for number in range(200):  # updates that overwrite each other fill nothing
            last = await publish(redis, b'{"a":"%b","n":%d}' % (b"x" * 400, number), retention=small)
        before = everything(redis_server)
        for key in (None, "k"):
            answer = await run(redis, update(b'{"b":"%b"}' % (b"y" * 700), retention=small, key=key))
            assert isinstance(answer, StateTooLarge)
            assert "1000" in str(answer)
            assert "RELAY_MAX_STATE_BYTES" in str(answer)
        assert everything(redis_server) == before
        assert await publish(redis, b'{"b":"y"}', retention=small, key="k") == (last.epoch, last.offset + 1)
        # What was published is known, even where it would not fit any more.
        await publish(redis, b'{"c":"%b"}' % (b"z" * 300), retention=small, key="k2")
        await publish(redis, b'{"c":0,"d":"%b"}' % (b"z" * 300), retention=small)
        assert (await publish(redis, b'{"c":"%b"}' % (b"z" * 300), retention=small, key="k2")).offset == last.offset + 2


async def test_a_state_has_a_bound_in_fields(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        for start in (0, 100, 200):
            fields = b",".join(b'"f%d":1' % number for number in range(start, min(start + 100, 256)))
            await publish(redis, b"{%b}" % fields)
        assert isinstance(await run(redis, update(b'{"f256":1}')), StateTooLarge)
        await publish(redis, b'{"f255":2,"f0":2}')
        with redis_server.client() as client:
            assert client.hlen(TASK_KEYS["state"]) == 256


async def test_a_first_state_has_the_same_bounds(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        before = everything(redis_server)
        call = publications.create_call("t", {"a": b"x" * 600}, b"x" * 606, Retention(max_state_bytes=500))
        assert isinstance(await run(redis, call), StateTooLarge)
        assert everything(redis_server) == before


# Stalls.


async def test_a_task_without_a_state_is_not_marked_and_leaves_the_index(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        tasks = redis.tasks(1000)
        await publish(redis, b'{"status":"in_progress"}')
        with redis_server.client() as client:
            client.delete(TASK_KEYS["state"])
        await trio.sleep(0.02)
        assert await tasks.mark_stalled(0.01) == 0
        with redis_server.client() as client:
            assert not client.exists(TASK_KEYS["state"])
            assert client.zscore(TASK_KEYS["running"], "t") is None


async def test_a_stalled_task_is_marked_once_and_revived_by_a_heartbeat(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        tasks = redis.tasks(1000)
        first = await publish(redis, b'{"status":"in_progress"}')
        await trio.sleep(0.02)
        assert [await tasks.mark_stalled(0.01) for _ in range(2)] == [1, 0]
        assert await tasks.heartbeat("t")
        entries = (await read(redis, first)).entries
        assert entries is not None
        assert [entry.data for entry in entries] == [b'{"stalled":true}', b'{"stalled":false}']
        task = await tasks.get("t")
        assert task is not None
        assert task.fields["stalled"] == b"false"
        assert task.position == (first.epoch, 3)


# What others have written.


async def test_what_would_break_a_frame_is_left_out(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        start = (await read(redis)).top
        top = await publish(redis, '{"é":"ü","n":1}'.encode())
        with redis_server.client() as client:
            client.hset(TASK_KEYS["state"], mapping={b"\xff": b"1", "bad": b"\xff", "broken": b'"x', "text": b'"\xff"'})
        snapshot = await read(redis)
        assert snapshot.state is not None
        assert snapshot.state.data == '{"é":"ü","n":1}'.encode()
        task = await redis.tasks(100).get("t")
        assert task is not None
        assert set(task.fields) == {"é", "n"}
        with redis_server.client() as client:
            client.xadd(TASK_KEYS["log"], {"time": 1, "type": "x", "data": b'"\xff"'}, f"{top.offset + 1}-0")
            client.hset(TASK_KEYS["meta"], mapping={"top": top.offset + 1, "volume": 99})
        entries = (await read(redis, start)).entries
        assert entries is not None
        assert [entry.data.decode() for entry in entries] == ['{"é":"ü","n":1}', '"\ufffd"']
