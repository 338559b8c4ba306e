"""Parts of histories in a real Valkey: forward and backward, with a limit, and bounded in bytes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from relay_wire import keys

from relay.broker import history_ranges
from relay.broker.history_ranges import HistoryRanges
from relay.broker.service import RedisBroker
from relay.core.errors import BrokerRefused
from relay.core.history_range import HistoryPart, HistoryRange
from tests.harness import RedisServer
from tests.integration.broker.durable import opened, publish

CHANNEL = "task:t"


@asynccontextmanager
async def published(
    server: RedisServer, count: int, *, size: int = 0
) -> AsyncIterator[tuple[RedisBroker, HistoryRanges]]:
    """A channel with so many updates, numbered from 1."""
    async with opened(server) as redis:
        for number in range(1, count + 1):
            await publish(redis, msgspec.json.encode({"n": number, "pad": "x" * size}), CHANNEL)
        yield redis, HistoryRanges(redis.run_calls)


def offsets(part: HistoryPart) -> list[int]:
    """The offsets of a part, whose updates have the data and the epoch that belong to them."""
    found = []
    for update in part.updates:
        assert update.position is not None
        assert part.top is not None
        assert update.position.epoch == part.top.epoch
        assert (update.channel, update.type) == (CHANNEL, "task_update")
        assert msgspec.json.decode(update.data)["n"] == update.position.offset
        found.append(update.position.offset)
    return found


async def test_parts_are_what_was_asked_for(shared_redis: RedisServer) -> None:
    async with published(shared_redis, 50) as (_, ranges):
        with shared_redis.client() as client:
            client.xtrim(keys.log(CHANNEL), minid="11", approximate=False)
        kept = list(range(11, 51))
        for limit in (0, 1, 2, 15, 16, 17, 39, 40, 300):
            for since in (None, 0, 1, 10, 11, 12, 30, 49, 50, 51, 2**53):
                forward = [offset for offset in kept if since is None or offset > since]
                backward = [offset for offset in reversed(kept) if since is None or offset < since]
                for reverse, expected in ((False, forward), (True, backward)):
                    part = await ranges.read(CHANNEL, HistoryRange(limit, since, reverse))
                    assert part.top is not None
                    assert part.top.offset == 50
                    assert offsets(part) == expected[:limit], (limit, since, reverse)


async def test_a_part_has_so_many_bytes_and_one_update_more_at_most(shared_redis: RedisServer) -> None:
    size = 40_000
    async with published(shared_redis, 30, size=size) as (_, ranges):
        most = -(-history_ranges.MAX_BYTES // size)
        for reverse in (False, True):
            part = await ranges.read(CHANNEL, HistoryRange(300, None, reverse))
            assert len(part.updates) in (most - 1, most)
            found = offsets(part)
            first = 30 if reverse else 1
            step = -1 if reverse else 1
            assert found == list(range(first, first + step * len(found), step))
            # It goes on from there to the end, without a gap.
            while len(part.updates) > 0:
                part = await ranges.read(CHANNEL, HistoryRange(300, found[-1], reverse))
                found += offsets(part)
            assert found == list(range(first, first + step * 30, step))


async def test_channels_without_history(shared_redis: RedisServer) -> None:
    async with published(shared_redis, 3) as (_, ranges):
        assert await ranges.read("task:nobody", HistoryRange(10)) == HistoryPart(None, ())
        with shared_redis.client() as client:
            client.delete(keys.log(CHANNEL))  # its updates have expired; the position stays
        part = await ranges.read(CHANNEL, HistoryRange(10))
        assert part.top is not None
        assert (part.top.offset, list(part.updates)) == (3, [])


async def test_keys_of_another_type_concern_one_channel(shared_redis: RedisServer) -> None:
    async with published(shared_redis, 1) as (_, ranges):
        with shared_redis.client() as client:
            client.set(keys.log("task:odd"), "text")
            client.hset(keys.meta("task:odd"), mapping={"epoch": "e", "top": "7"})
            client.hset(keys.meta("task:none"), mapping={"epoch": "e", "top": "many"})
        for channel in ("task:odd", "task:none"):
            with pytest.raises(BrokerRefused):
                await ranges.read(channel, HistoryRange(10))
        assert offsets(await ranges.read(CHANNEL, HistoryRange(10))) == [1]
