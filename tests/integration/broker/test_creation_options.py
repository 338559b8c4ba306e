"""Owner and parent of a task: kept beside its epoch, read in the same round trip, and sent before what a new owner may see."""

from collections.abc import Iterator

import pytest
from relay_wire import keys
from relay_wire.creation import CreationOptions
from relay_wire.publications import ScriptCall

from relay.broker import script_calls
from relay.core.errors import BrokerRefused
from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually
from tests.integration.broker.durable import RETENTION, opened, read
from tests.integration.server.test_api import call


def published(data: bytes, options: CreationOptions, channel: str = "task:t") -> ScriptCall:
    return script_calls.publish_call(channel, "task_update", data, RETENTION, options=options)


def messages(server: RedisServer) -> Iterator[bytes]:
    with server.client() as client:
        pubsub = client.pubsub()
        pubsub.subscribe(keys.pubsub_channel("task:t"))
        pubsub.get_message(timeout=5)
        yield b""
        while message := pubsub.get_message(timeout=5):
            yield message["data"]


async def test_another_owner_is_sent_before_the_update_that_brings_it(redis_server: RedisServer) -> None:
    received = messages(redis_server)
    next(received)
    async with opened(redis_server) as redis:
        await redis.run_calls(
            [
                published(b'{"n":1}', CreationOptions()),
                published(b'{"n":2}', CreationOptions(frozenset(["user:8", "user:7"]))),
                published(b'{"n":3}', CreationOptions(frozenset(["user:7", "user:8"]))),
                published(b'{"n":4}', CreationOptions(frozenset())),
            ]
        )
        assert [next(received).split(b" ", 1)[1] for _ in range(6)] == [
            b'1 task_update\n{"n":1}',
            b'0 owner\n["user:7","user:8"]',
            b'2 task_update\n{"n":2}',
            b'3 task_update\n{"n":3}',
            b"0 owner\n[]",
            b'4 task_update\n{"n":4}',
        ]
        assert (await read(redis)).owner == frozenset()
        assert (await read(redis, channel="task:unknown")).owner == frozenset()
        assert (await read(redis, channel="general")).owner == frozenset()


async def test_a_task_keeps_its_parent(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        await redis.run_calls([published(b'{"n":1}', CreationOptions(parent_id="p"))])
        (refused,) = await redis.run_calls([published(b'{"n":2}', CreationOptions(parent_id="q"))])
        assert isinstance(refused, BrokerRefused)
        assert "for its whole life" in str(refused)
        state = (await read(redis)).state
        assert state is not None
        assert state.data == b'{"n":1}'


async def test_an_owner_that_cannot_be_read_is_refused(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        await redis.run_calls([published(b'{"n":1}', CreationOptions())])
        with redis_server.client() as client:
            client.hset(keys.meta("task:t"), "owner", "[7]")
        with pytest.raises(AssertionError, match="cannot be read"):
            await read(redis)


def test_the_api_shows_owner_and_parent(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    with redis_server.client() as client:
        client.publish(
            "task_updates",
            '{"type":"task_update","task_id":"t","owner":["user:7"],"parent_id":7,"data":{"status":"pending"}}',
        )
    eventually(lambda: call(relay, "/api/tasks/t")[0] == 200)
    (listed,) = call(relay, "/api/tasks")[1]["tasks"]
    task = call(relay, "/api/tasks/t")[1]
    assert (task["owner"], task["parent_id"], task["data"]) == (["user:7"], "7", {"status": "pending"})
    assert (listed["owner"], listed["parent_id"]) == (["user:7"], "7")
