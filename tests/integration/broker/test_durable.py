"""Durable updates on a real Valkey: the two scripts, the recorder, and what happens when there is no memory."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic

import msgspec
import pytest
import trio
from relay_wire import keys, publications
from relay_wire.channels import TASK_UPDATES
from relay_wire.publications import Occurrence

from relay.broker import script_calls
from relay.broker.service import RedisBroker, open_redis
from relay.config import RedisSettings, Settings
from relay.core.channels import read_published
from relay.core.errors import BrokerError, BrokerRefused
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from tests.conftest import StartRelay
from tests.harness import Client, RedisServer, RelayServer, eventually

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]
REDIS_SETTINGS = RedisSettings(_env_file=None)  # type: ignore[call-arg]
RETENTION = script_calls.retention_of(SETTINGS)


@asynccontextmanager
async def opened(server: RedisServer) -> AsyncIterator[RedisBroker]:
    with trio.fail_after(30):
        async with open_redis(server.url, SETTINGS, REDIS_SETTINGS) as redis:
            assert await redis.check_writes() is None
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


async def test_a_new_epoch_begins_when_the_memory_is_lost(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        old = await publish(redis, b'{"n":1}')
        with redis_server.client() as client:
            client.flushall()
        assert await redis.check_writes() is None  # as a relay does it every second
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
    call = script_calls.ingest_created_call(announcement, Occurrence("digest", 1, 0, 30_000), RETENTION)
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
BOUNDED_OTHERWISE = {name(bucket) for bucket in range(keys.BUCKETS) for name in (keys.tasks, keys.running)}


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
        async with recording(redis) as hear:
            hear(b'{"type":"task_update","task_id":"plain","data":{"a":1}}')
            hear(b'{"type":"general_update","data":{"type":"task_created","task_info":{"task_id":"new","a":1}}}')
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


# The recorder.


@asynccontextmanager
async def recording(redis: RedisBroker, *, given_up: list[Update] | None = None) -> AsyncIterator[Callable[..., None]]:
    """A recorder as a relay has one; yields what lets it hear messages."""
    lost: list[Update] = [] if given_up is None else given_up
    instance = redis.publish_ingester(lost.append, lambda: None)

    def hear(*messages: bytes) -> None:
        for message in messages:
            instance.on_message(read_published(TASK_UPDATES, message, monotonic()), message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(instance.run)
        yield hear
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


@pytest.mark.parametrize("seed", range(4))
async def test_however_many_relays_hear_it_each_plain_publish_is_recorded_once_and_in_order(
    seed: int, redis_server: RedisServer
) -> None:
    """Equal messages among them. One relay hears all; others start later, and each is ahead or behind as it happens."""
    draw = random.Random(seed)
    numbers = [draw.randrange(6) if draw.random() < 0.7 else 1 for _ in range(60)]
    starts = [0, *(draw.randrange(len(numbers)) for _ in range(3))]
    async with opened(redis_server) as redis, trio.open_nursery() as nursery:

        async def relay(start: int) -> None:
            async with recording(redis) as hear:
                place = start
                await logged(redis_server, "task:t", start)
                await trio.sleep(0.1)
                while place < len(numbers):
                    step = draw.randrange(1, 9)
                    hear(*(task_message("t", number) for number in numbers[place : place + step]))
                    place += step
                    await trio.sleep(draw.random() * 0.01)
                await logged(redis_server, "task:t", len(numbers))
                await trio.sleep(0.1)

        for start in starts:
            nursery.start_soon(relay, start)
    assert numbers_in_log(redis_server, "task:t") == numbers


async def test_many_equal_ones_in_a_row_stay_as_many(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis, recording(redis) as first, recording(redis) as second:
        first(*[task_message("t", 1)] * 100)
        await logged(redis_server, "task:t", 100)
        second(*[task_message("t", 1)] * 100)
        await trio.sleep(0.2)
        second(task_message("t", 2))
        await logged(redis_server, "task:t", 101)
    assert numbers_in_log(redis_server, "task:t") == [1] * 100 + [2]


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> float:
    """Digests are forgotten in fractions of a second; returns the time after which a count begins anew."""
    monkeypatch.setattr("relay.broker.publish_ingester.DEDUP_TTL", 2.0)
    monkeypatch.setattr("relay.core.occurrences.DEDUP_COUNTED", 0.8)
    monkeypatch.setattr("relay.core.occurrences.MAX_LAG", 0.3)
    return 0.8


async def test_equal_ones_that_are_meant_as_several_stay_several(short_times: float, redis_server: RedisServer) -> None:
    """However far apart, and however the time between them compares to how long a count is kept, here and in Redis."""
    async with opened(redis_server) as redis, recording(redis) as first, recording(redis) as second:

        async def publish_thrice(task_id: str, apart: float) -> None:
            for count in range(1, 4):
                for hear in (first, second) if count % 2 else (second, first):
                    hear(task_message(task_id, 1))
                await logged(redis_server, f"task:{task_id}", count)
                await trio.sleep(apart)

        times = {f"{apart} s apart": apart for apart in (0.0, 0.2, 0.6, 1.0, 2.4)}
        async with trio.open_nursery() as nursery:
            for task_id, apart in times.items():
                nursery.start_soon(publish_thrice, task_id, apart)
        await trio.sleep(0.2)
    for task_id in times:
        assert numbers_in_log(redis_server, f"task:{task_id}") == [1, 1, 1], task_id


async def test_a_relay_that_starts_between_two_equal_ones_counts_right(
    short_times: float, redis_server: RedisServer
) -> None:
    message = task_message("t", 1)
    async with opened(redis_server) as redis, recording(redis) as first:
        first(message)
        await logged(redis_server, "task:t", 1)
        async with recording(redis) as second:
            second(message)
            await trio.sleep(0.1)
            first(message)
            await logged(redis_server, "task:t", 2)
            await trio.sleep(0.4)
            second(message)
            first(message)
            await logged(redis_server, "task:t", 3)
        first(message)
        await logged(redis_server, "task:t", 4)
        await trio.sleep(0.1)
    assert numbers_in_log(redis_server, "task:t") == [1] * 4


async def test_a_relay_that_takes_over_between_two_equal_ones_does_not_take_them_for_one(
    redis_server: RedisServer,
) -> None:
    """The first hears one and dies; the second, which starts right after, hears the other."""
    message = task_message("t", 1)
    async with opened(redis_server) as redis:
        for count in range(1, 4):
            async with recording(redis) as hear:
                hear(message)
                await logged(redis_server, "task:t", count)
            await trio.sleep(0.1)
    assert numbers_in_log(redis_server, "task:t") == [1, 1, 1]


async def test_a_relay_that_was_cut_off_between_two_equal_ones_counts_anew(redis_server: RedisServer) -> None:
    first, second = (task_message("t", number) for number in (1, 2))
    async with opened(redis_server) as redis, recording(redis) as other:
        lone = redis.publish_ingester(lambda _: None, lambda: None)

        def hear(message: bytes) -> None:
            lone.on_message(read_published(TASK_UPDATES, message, monotonic()), message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lone.run)
            hear(first)
            other(first)
            await logged(redis_server, "task:t", 1)
            other(first)  # this one it has missed
            await logged(redis_server, "task:t", 2)
            await trio.sleep(0.1)
            lone.on_reconnecting()
            hear(first)  # and this one the other has
            await logged(redis_server, "task:t", 3)
            hear(second)
            await logged(redis_server, "task:t", 4)
            nursery.cancel_scope.cancel()
    assert numbers_in_log(redis_server, "task:t") == [1, 1, 1, 2]


# Without memory.


def out_of_memory(server: RedisServer, is_out: bool) -> None:
    with server.client() as client:
        client.config_set("maxmemory", "1" if is_out else "0")


async def test_what_waited_in_vain_is_not_waited_for_again_before_something_is_recorded(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Update] = []
    async with opened(redis_server) as redis, recording(redis, given_up=lost) as hear:
        hear(task_message("t", 1))
        await logged(redis_server, "task:t", 1)
        with redis_server.client() as admin:
            admin.config_set("min-replicas-to-write", 1)
            monkeypatch.setattr("relay.core.plain_order.MAX_WAIT", 0.3)
            hear(task_message("t", 2))
            with trio.fail_after(10):
                while not lost:  # noqa: ASYNC110 - nobody tells us
                    await trio.sleep(0.01)
            monkeypatch.setattr("relay.core.plain_order.MAX_WAIT", 1000.0)
            hear(task_message("t", 3))
            with trio.fail_after(10):
                while len(lost) < 2:  # noqa: ASYNC110 - as above
                    await trio.sleep(0.01)
            admin.config_set("min-replicas-to-write", 0)
        hear(task_message("t", 4))
        await logged(redis_server, "task:t", 2)
    assert numbers_in_log(redis_server, "task:t") == [1, 4]


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


def subscribe(client: Client, task_id: str, position: object = None) -> object:
    client.send({"type": "subscribe", "task_id": task_id, "position": position})
    answer = client.receive()
    assert answer["type"] == "subscribed"
    return answer["position"]


def test_without_memory_updates_are_live_only_counted_and_the_relay_is_not_ready(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay()
    with relay.client() as client, relay.client("t") as plain:
        position = subscribe(client, "t")
        assert isinstance(position, dict)
        out_of_memory(redis_server, True)
        for number in (1, 2):
            redis_server.publish_task("t", n=number)
            assert client.receive() == {"type": "task_update", "task_id": "t", "data": {"n": number}}
            assert plain.receive()["data"] == {"n": number}
        eventually(lambda: relay.metric("relay_updates_unpersisted_total") == 2)
        eventually(lambda: relay.get("/readyz")[0] == 503, within=3.0)
        out_of_memory(redis_server, False)
        eventually(lambda: relay.get("/readyz")[0] == 200, within=3.0)  # without anyone publishing
        redis_server.publish_task("t", n=3)
        got = client.receive()
        assert got["data"] == {"n": 3}
        assert got["position"] == {"epoch": position["epoch"], "offset": 1}


# Two relays.


def follow(client: Client, count: int, task_id: str = "t") -> list[tuple[int, int]]:
    got = [client.receive() for _ in range(count)]
    assert all(message["task_id"] == task_id for message in got)
    return [(message["position"]["offset"], message["data"]["n"]) for message in got]


@pytest.mark.parametrize("victim", [0, 1])
def test_two_relays_deliver_the_same_offsets_and_killing_either_loses_nothing(
    victim: int, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relays: list[RelayServer] = [start_relay(), start_relay()]
    with relays[0].client() as first, relays[1].client() as second:
        position = subscribe(first, "t")
        assert subscribe(second, "t") == position
        for number in range(1, 51):
            redis_server.publish_task("t", n=number)
        expected = [(number, number) for number in range(1, 51)]
        assert follow(first, 50) == expected
        assert follow(second, 50) == expected
        for number in range(51, 101):
            redis_server.publish_task("t", n=number)
            if number == 60:
                relays[victim].kill()
        survivor = second if victim == 0 else first
        assert follow(survivor, 50) == [(number, number) for number in range(51, 101)]
    with relays[1 - victim].client() as returned:
        assert isinstance(position, dict)
        returned.send({"type": "subscribe", "task_id": "t", "position": {**position, "offset": 50}})
        assert returned.receive()["recovered"] is True
        assert follow(returned, 50) == [(number, number) for number in range(51, 101)]
