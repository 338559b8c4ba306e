"""What the tests of durable updates share: calls of the scripts, and an ingester as a relay has one."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

import msgspec
import trio
from relay_wire import keys, publications
from relay_wire.channels import GENERAL_UPDATES, TASK_UPDATES

from relay.broker import script_calls
from relay.broker.opening import open_redis
from relay.broker.service import RedisBroker
from relay.broker.write_probe import WriteProbe
from relay.config import RedisSettings, Settings
from relay.core.channels import read_published
from relay.core.errors import BrokerError
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from tests.harness import RedisServer

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]
REDIS_SETTINGS = RedisSettings(_env_file=None)  # type: ignore[call-arg]
RETENTION = script_calls.retention_of(SETTINGS)


async def check_writes(redis: RedisBroker) -> str | None:
    """Write as a relay does at intervals; return why Redis does not take writes."""
    probe = WriteProbe(redis.run_calls, RETENTION, 1.0, is_sharded=False)
    await probe.check()
    return probe.failure


@asynccontextmanager
async def opened(server: RedisServer) -> AsyncIterator[RedisBroker]:
    with trio.fail_after(30):
        async with open_redis(server.url, SETTINGS, REDIS_SETTINGS) as redis:
            assert await check_writes(redis) is None
            yield redis


async def publish(
    redis: RedisBroker, data: bytes, channel: str = "task:t", retention: publications.Retention = RETENTION
) -> Position:
    call = script_calls.publish_call(channel, "task_update", data, retention)
    (answer,) = await redis.run_calls([call])
    assert not isinstance(answer, BrokerError), answer
    return publications.publish_result(answer).position


async def read(
    redis: RedisBroker,
    since: Position | None = None,
    channel: str = "task:t",
    retention: publications.Retention = RETENTION,
) -> Snapshot:
    """What a client gets that resumes, and besides the state, which comes only without history."""
    snapshots = []
    for position in dict.fromkeys((since, None)):
        (answer,) = await redis.run_calls([script_calls.read_call(channel, position, retention, 1 << 20)])
        assert not isinstance(answer, BrokerError), answer
        snapshot = script_calls.read_snapshot(channel, answer, 0.0)
        assert not isinstance(snapshot, BrokerError), snapshot
        snapshots.append(snapshot)
    assert snapshots[0].state is None or snapshots[0].entries is None
    return snapshots[0]._replace(state=snapshots[-1].state)


def entries(snapshot: Snapshot) -> list[tuple[int, bytes]]:
    assert snapshot.entries is not None
    return [(update.position.offset, update.data) for update in snapshot.entries if update.position]


@asynccontextmanager
async def ingesting(redis: RedisBroker, *, live_only: list[Update] | None = None) -> AsyncIterator[Callable[..., None]]:
    """An ingester as a relay has one; yields what lets it receive messages."""
    lost: list[Update] = [] if live_only is None else live_only
    instance = redis.publish_ingester(lost.append, lambda: None)

    def receive(*messages: bytes) -> None:
        for message in messages:
            channel = GENERAL_UPDATES if b'"general_update"' in message else TASK_UPDATES
            instance.on_message(read_published(channel, message, monotonic()), message)
        instance.on_turn_end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(instance.run)
        yield receive
        nursery.cancel_scope.cancel()


def task_message(task_id: str, number: int) -> bytes:
    return msgspec.json.encode({"type": "task_update", "task_id": task_id, "data": {"n": number}})


def numbers_in_log(server: RedisServer, channel: str) -> list[int]:
    with server.client() as client:
        return [msgspec.json.decode(fields[b"data"])["n"] for _, fields in client.xrange(keys.log(channel))]


async def logged(server: RedisServer, channel: str, count: int) -> None:
    """Wait until as many are recorded."""
    with trio.fail_after(10), server.client() as client:
        while client.xlen(keys.log(channel)) < count:  # noqa: ASYNC110 - nobody tells us
            await trio.sleep(0.01)


def out_of_memory(server: RedisServer, is_out: bool) -> None:
    with server.client() as client:
        client.config_set("maxmemory", "1" if is_out else "0")
