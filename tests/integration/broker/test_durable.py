"""Durable updates on a real Valkey: positions, states, retention, and what happens when there is no memory."""

from contextlib import suppress
from time import monotonic

import msgspec
import pytest
import trio
from relay_wire import keys, publications
from relay_wire.publications import Occurrence

from relay.broker import script_calls
from relay.broker.publication_times import WrittenUpdate
from relay.core.errors import BrokerRefused, BrokerUnavailable
from relay.core.updates import Position, Update
from tests.harness import RedisServer
from tests.integration.broker.durable import (
    RETENTION,
    check_writes,
    entries,
    ingesting,
    logged,
    opened,
    out_of_memory,
    publish,
    read,
)

# The scripts.


async def test_many_publishers_at_once_leave_no_hole_and_all_is_read_back(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        start = (await read(redis)).top
        assert start.offset == 0
        positions: list[Position] = []

        async def publisher(number: int) -> None:
            for count in range(20):
                positions.append(await publish(redis, b'{"n":%d}' % (number * 100 + count)))

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(publisher, number)
        assert sorted(positions) == [(start.epoch, offset) for offset in range(1, 101)]
        for since in (0, 1, 50, 99, 100):
            snapshot = await read(redis, Position(start.epoch, since))
            assert [offset for offset, _ in entries(snapshot)] == list(range(since + 1, 101))
        for wrong in (Position(start.epoch, 101), Position("other", 5)):
            assert (await read(redis, wrong)).entries is None


async def test_live_messages_are_what_is_read_back(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        with redis_server.client() as client, client.pubsub() as pubsub:
            pubsub.subscribe(keys.pubsub_channel("task:t"))
            assert pubsub.get_message(timeout=5)
            for data in (b'{"a":1}', b' { "b" : [ ] } ', '{"ü":"\u2028"}'.encode()):
                await publish(redis, data)
            raw = [pubsub.get_message(timeout=5)["data"] for _ in range(3)]
        snapshot = await read(redis, Position((await read(redis)).top.epoch, 0))
        assert snapshot.entries is not None
        assert raw == [
            b"%b %d %b\n%b"
            % (update.position.epoch.encode(), update.position.offset, update.type.encode(), update.data)
            for update in snapshot.entries
            if update.position is not None
        ]


async def test_the_state_keeps_every_value_as_it_was_written(redis_server: RedisServer) -> None:
    values = {
        "big": b"12345678901234567890123",
        "precise": b"0.1000000000000000055511151231257827",
        "exponent": b"1E+2",
        "empty": b"[]",
        "none": b"{}",
        "null": b"null",
        "nested": b'{"a":[1,{"b":[]},"\\u00e9\\ud83d\\ude00"],"c":{}}',
        "text": '"é\\n\\"quoted\\""'.encode(),
        "na:me with spaces {}": b"true",
    }
    async with opened(redis_server) as redis:
        for name, value in values.items():
            await publish(redis, b'{"last":"%b","%b":%b}' % (name.encode(), name.encode(), value))
        state = (await read(redis)).state
    assert state is not None
    assert {name: bytes(raw) for name, raw in msgspec.json.decode(state.data, type=dict[str, msgspec.Raw]).items()} == {
        **values,
        "last": b'"na:me with spaces {}"',
    }


async def test_an_idempotency_key_makes_it_the_same_update(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        first = await redis.publish_durably("task:t", "task_update", b'{"n":1}', idempotency_key="k")
        other = await redis.publish_durably("task:t", "task_update", b'{"n":2}', idempotency_key="k2")
        again = await redis.publish_durably("task:t", "task_update", b'{"n":1}', idempotency_key="k")
        elsewhere = await redis.publish_durably("task:u", "task_update", b'{"n":1}', idempotency_key="k")
        assert first is not None
        assert other == (first.epoch, 2)
        assert again == first
        assert elsewhere is not None
        assert elsewhere.epoch != first.epoch
        snapshot = await read(redis, Position(first.epoch, 0))
        assert entries(snapshot) == [(1, b'{"n":1}'), (2, b'{"n":2}')]
        state = (await read(redis)).state
        assert state is not None
        assert state.data == b'{"n":2}'  # the repetition does not overwrite what came after it
        # A key may outlive the channel's numbers: the position is that of then, which no longer leads anywhere.
        with redis_server.client() as client:
            client.delete(keys.meta("task:t"))
        assert await redis.publish_durably("task:t", "task_update", b'{"n":1}', idempotency_key="k") == first
        assert (await read(redis, first)).entries is None


async def test_a_flushed_script_cache_is_no_problem(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        for offset in range(1, 4):
            assert (await publish(redis, b'{"n":1}')).offset == offset
            assert (await read(redis)).top.offset == offset
            with redis_server.client() as client:
                client.script_flush()


@pytest.mark.parametrize("connects_again", [False, True])
async def test_scripts_of_which_the_server_knows_some_run_once_each(
    redis_server: RedisServer, connects_again: bool
) -> None:
    """Without idempotency keys. The server was replaced, or made to forget; others have loaded what they use since."""
    plain = script_calls.publish_call("task:t", "task_update", b'{"plain":1}', RETENTION)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traced = script_calls.publish_call("task:t", "task_update", b'{"traced":1}', RETENTION, trace=trace)
    assert traced.script != plain.script
    async with opened(redis_server) as redis:
        await redis.run_calls([traced, plain])
        with redis_server.client() as client:
            client.script_flush()
            client.script_load(plain.script.source)
            if connects_again:
                client.client_kill_filter(_type="normal", skipme=True)
                with suppress(BrokerUnavailable):  # it may notice only now
                    await redis.command("PING")
        answers = await redis.run_calls([traced, plain, traced])
        offsets = [publications.publish_result(answer).position.offset for answer in answers]
        # Where the scripts vanish from one moment to the next, a call may overtake those whose script is missing.
        assert offsets == ([3, 4, 5] if connects_again else [4, 3, 5])
        assert (await read(redis)).top.offset == 5


async def test_a_new_epoch_begins_when_the_memory_is_lost(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        old = await publish(redis, b'{"n":1}')
        with redis_server.client() as client:
            client.flushall()
        assert await check_writes(redis) is None  # as a relay does it every second
        snapshot = await read(redis, old)
        assert (snapshot.entries, snapshot.state, snapshot.top.offset) == (None, None, 0)
        assert snapshot.top.epoch != old.epoch
        # The position that was given out is one that can be resumed from.
        assert await publish(redis, b'{"n":2}') == (snapshot.top.epoch, 1)
        assert entries(await read(redis, snapshot.top)) == [(1, b'{"n":2}')]
        # What outlived its numbers belongs to nobody.
        with redis_server.client() as client:
            client.delete(keys.meta("task:t"))
        assert (await publish(redis, b'{"m":3}')).offset == 1
        state = (await read(redis)).state
        assert state is not None
        assert state.data == b'{"m":3}'


async def test_an_announced_task_has_a_state_unless_another_relay_has_given_it_one(redis_server: RedisServer) -> None:
    announcement = b'{"type":"task_created","task_info":{"task_id":7,"status":"pending","tier":"gold"}}'
    call = script_calls.ingest_created_call(
        Update("general", "general_update", announcement, 0.0), Occurrence("digest", 1, 0, 30_000), RETENTION
    )
    assert call is not None
    async with opened(redis_server) as redis:
        await redis.run_calls([call])
        snapshot = await read(redis, channel="task:7")
        assert snapshot.state is not None
        assert snapshot.state.data == b'{"status":"pending","tier":"gold"}'
        assert snapshot.top.offset == 0
        await publish(redis, b'{"status":"in_progress"}', "task:7")
        await redis.run_calls([call])
        state = (await read(redis, channel="task:7")).state
        assert state is not None
        assert msgspec.json.decode(state.data) == {"status": "in_progress", "tier": "gold"}


# Retention.


async def test_the_log_is_bounded_in_count_and_then_says_so(redis_server: RedisServer) -> None:
    few = publications.Retention(100, 3600, 7200, 3600, 600)
    async with opened(redis_server) as redis:
        first = await publish(redis, b'{"n":0}', retention=few)
        for _ in range(500):
            top = await publish(redis, b'{"n":1}', retention=few)
        with redis_server.client() as client:
            assert 100 <= client.xlen(keys.log("task:t")) <= 200  # trimmed in whole nodes of a hundred
        assert (await read(redis, first, retention=few)).entries is None
        kept = await read(redis, Position(first.epoch, top.offset - 100), retention=few)
        assert [offset for offset, _ in entries(kept)] == list(range(top.offset - 99, top.offset + 1))


async def test_the_log_is_bounded_in_age(redis_server: RedisServer) -> None:
    short = publications.Retention(1000, 1, 7200, 3600, 600)
    async with opened(redis_server) as redis:
        first = await publish(redis, b'{"n":0}', retention=short)
        await trio.sleep(0.6)
        await publish(redis, b'{"n":1}', retention=short)
        await trio.sleep(0.6)
        for number in (2, 3):
            await publish(redis, b'{"n":%d}' % number, retention=short)
        assert entries(await read(redis, Position(first.epoch, 1))) == [
            (2, b'{"n":1}'),
            (3, b'{"n":2}'),
            (4, b'{"n":3}'),
        ]
        assert (await read(redis, Position(first.epoch, 0))).entries is None
        await trio.sleep(1.1)
        assert (await read(redis, Position(first.epoch, 3))).entries is None
        # The numbers and the state live on.
        assert entries(await read(redis, Position(first.epoch, 4))) == []
        assert (await read(redis)).state is not None
        assert (await publish(redis, b'{"n":4}', retention=short)) == (first.epoch, 5)


#: Keys that have no time to live: a bound in members is kept by the relay that supervises.
BOUNDED_OTHERWISE = {name(bucket) for bucket in range(keys.BUCKETS) for name in (keys.tasks, keys.running, keys.names)}


async def test_every_key_has_a_bound_in_age(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        await read(redis, channel="task:only-read")
        await publish(redis, b'{"status":"in_progress"}', "task:running")
        await publish(redis, b'{"status":"completed"}', "task:ended")
        await publish(redis, b'{"status":"completed"}', "task:restarted")
        await publish(redis, b'{"status":"in_progress"}', "task:restarted")
        await publish(redis, b"{}", "general")
        await redis.publish_durably("task:id", "task_update", b"{}", idempotency_key="k")
        with redis_server.client() as client:
            client.delete(keys.meta("task:id"))
        await redis.publish_durably(
            "task:id", "task_update", b"{}", idempotency_key="k"
        )  # known, in a channel that is new
        async with ingesting(redis) as receive:
            receive(b'{"type":"task_update","task_id":"plain","data":{"a":1}}')
            receive(b'{"type":"general_update","data":{"type":"task_created","task_info":{"task_id":"new","a":1}}}')
            await logged(redis_server, "task:plain", 1)
            await logged(redis_server, "general", 2)
    with redis_server.client() as client:
        found = {key.decode(): client.pttl(key) for key in client.scan_iter("*")}
        ages = {name: age for name, age in found.items() if name not in BOUNDED_OTHERWISE}
        assert len(ages) > 15
        assert [name for name, age in ages.items() if age < 0] == []
        assert ages[keys.state("task:ended")] <= RETENTION.terminal_state_ttl * 1000
        for task in ("running", "restarted"):
            assert ages[keys.state(f"task:{task}")] > RETENTION.terminal_state_ttl * 1000
        assert ages[keys.log("task:running")] <= RETENTION.history_ttl * 1000 < ages[keys.meta("task:running")]
        running = {
            member.decode() for bucket in range(keys.BUCKETS) for member in client.zrange(keys.running(bucket), 0, -1)
        }
        assert running == {"running", "restarted"}


# Without memory.


async def test_no_write_at_all_is_made_without_memory(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        before = await publish(redis, b'{"n":1}')
        out_of_memory(redis_server, True)
        for channel in ("task:t", "task:new"):
            call = script_calls.publish_call(channel, "task_update", b'{"n":2}', RETENTION)
            (answer,) = await redis.run_calls([call])
            assert isinstance(answer, BrokerRefused)
        with suppress(BrokerRefused):
            assert await redis.publish_durably("task:t", "task_update", b'{"n":2}', idempotency_key="k") is None
        assert (await read(redis, before)).top == before  # what there is can be read
        out_of_memory(redis_server, False)
        with redis_server.client() as client:
            assert not client.exists(keys.meta("task:new"))
        # The key was not used up by the attempt.
        assert await redis.publish_durably("task:t", "task_update", b'{"n":2}', idempotency_key="k") == (
            before.epoch,
            2,
        )


async def test_without_memory_a_durable_publish_is_delivered_live(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        out_of_memory(redis_server, True)
        assert await redis.publish_durably("task:t", "task_update", b"{}") is None


# When they were stored.


async def test_the_latency_of_an_update_begins_when_redis_stores_it(shared_redis: RedisServer) -> None:
    async with opened(shared_redis) as redis:
        times = redis.publication_times()
        before = monotonic()
        first = await publish(redis, b'{"n":1}')
        after = monotonic()
        second = await publish(redis, b'{"n":2}')
        written = before + 5
        updates = [WrittenUpdate("task:t", position, written) for position in (first, second)]
        began = monotonic()
        found = await times.latencies(updates)
        error = monotonic() - began + 0.001  # half of the round trip, and Redis' milliseconds
        assert written - after - error <= found[0] <= written - before + error
        assert found[1] <= found[0]
        assert await times.latencies([WrittenUpdate("task:t", second, before - 60)]) == [
            0
        ]  # never before it was stored
        gone = [
            WrittenUpdate("task:t", Position("other", first.offset), written),
            WrittenUpdate("task:t", Position(first.epoch, 99), written),
            WrittenUpdate("task:unknown", first, written),
        ]
        assert await times.latencies(gone) == []


async def test_a_history_that_somebody_else_wrote_has_no_latency(shared_redis: RedisServer) -> None:
    async with opened(shared_redis) as redis:
        position = await publish(redis, b'{"n":1}')
        with shared_redis.client() as client:
            client.delete(keys.log("task:t"))
            client.xadd(keys.log("task:t"), {"other": "fields"}, id="1-0")
            client.set(keys.log("task:string"), "no stream")
            client.hset(keys.meta("task:string"), "epoch", position.epoch)
        updates = [WrittenUpdate(name, position, monotonic()) for name in ("task:t", "task:string")]
        assert await redis.publication_times().latencies(updates) == []
