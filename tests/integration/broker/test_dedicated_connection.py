"""Calls that are started at once on a connection of their own, on a real Valkey."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import trio
from redis.exceptions import OutOfMemoryError, RedisError
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script

from relay.broker.dedicated_connection import DedicatedConnection
from tests.harness import RedisServer
from tests.integration.broker.durable import opened, out_of_memory

COUNT = Script.of("return redis.call('INCR', KEYS[1])")
PAD = Script.of("redis.call('INCR', KEYS[1]) return string.rep('x', 300000)")


def calls(*scripts: Script) -> list[ScriptCall]:
    return [ScriptCall(script, ["n"], []) for script in scripts]


@pytest.fixture
async def connection(redis_server: RedisServer) -> AsyncIterator[DedicatedConnection]:
    """A connection that knows the scripts."""
    async with opened(redis_server) as redis:
        made = redis._own_connection()
        assert made is not None
        assert not made.start(calls(COUNT)), "it is not open yet"
        assert await made.run_calls(calls(COUNT)) == [1]
        assert not made.start(calls(PAD)), "the server may not know the script"
        await made.run_calls(calls(PAD))
        yield made


async def answers_of(connection: DedicatedConnection) -> Sequence[Any]:
    with trio.fail_after(10):
        while (answers := connection.poll()) is None:  # noqa: ASYNC110 - nobody tells us
            await trio.sleep(0.001)
    return answers


async def test_what_is_started_is_answered(connection: DedicatedConnection) -> None:
    for number in (3, 5, 7):
        assert connection.start(calls(COUNT, COUNT))
        assert not connection.start(calls(COUNT)), "others are under way"
        assert await answers_of(connection) == [number, number + 1]
    assert await connection.run_calls(calls(COUNT)) == [9]


async def test_what_was_not_started_has_no_answers(connection: DedicatedConnection) -> None:
    with pytest.raises(RedisError):
        connection.poll()
    assert await connection.run_calls(calls(COUNT)) == [3]


async def test_an_answer_may_come_in_parts(connection: DedicatedConnection) -> None:
    assert connection.start(calls(PAD, COUNT))
    padding, number = await answers_of(connection)
    assert (len(padding), number) == (300_000, 4)


async def test_what_is_started_may_be_awaited(connection: DedicatedConnection, redis_server: RedisServer) -> None:
    started = calls(COUNT)
    assert connection.start(started)
    assert await connection.run_calls(started) == [3]
    redis_server.freeze()
    assert connection.start(started)
    assert connection.poll() is None
    redis_server.thaw()
    assert await connection.run_calls(started) == [4], "it is not run twice"


async def test_a_refusal_leaves_the_connection_as_it_is(
    connection: DedicatedConnection, redis_server: RedisServer
) -> None:
    out_of_memory(redis_server, True)
    assert connection.start(calls(COUNT, COUNT))
    with pytest.raises(OutOfMemoryError):
        await answers_of(connection)
    out_of_memory(redis_server, False)
    assert connection.start(calls(COUNT))
    assert await answers_of(connection) == [3]


async def test_a_connection_that_broke_is_made_anew(connection: DedicatedConnection, redis_server: RedisServer) -> None:
    redis_server.freeze()
    assert connection.start(calls(COUNT))
    redis_server.kill()
    with pytest.raises((RedisError, OSError)):
        await answers_of(connection)
    assert not connection.start(calls(COUNT)), "what it answers next belongs to other calls"
    redis_server.start()
    with pytest.raises(RedisError):
        await connection.run_calls(calls(COUNT))
    assert await connection.run_calls(calls(COUNT)) == [1]
    assert connection.start(calls(COUNT))
    assert await answers_of(connection) == [2]


async def test_other_calls_do_not_get_the_answers(connection: DedicatedConnection) -> None:
    assert connection.start(calls(COUNT))
    with pytest.raises(RedisError):
        await connection.run_calls(calls(COUNT))
    assert await connection.run_calls(calls(COUNT)) == [4]
