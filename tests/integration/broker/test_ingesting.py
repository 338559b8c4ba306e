"""Plain publishes made durable on a real Valkey: once and in order, however many relays receive them."""

import random
from time import monotonic
from typing import Any

import pytest
import trio
from relay_wire.channels import TASK_UPDATES

from relay.core.channels import read_published
from relay.core.updates import Update
from tests.conftest import StartRelay
from tests.harness import Client, RedisServer, RelayServer, eventually
from tests.integration.broker.durable import (
    ingesting,
    logged,
    numbers_in_log,
    opened,
    out_of_memory,
    task_message,
)


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
            async with ingesting(redis) as receive:
                place = start
                await logged(redis_server, "task:t", start)
                await trio.sleep(0.1)
                while place < len(numbers):
                    step = draw.randrange(1, 9)
                    receive(*(task_message("t", number) for number in numbers[place : place + step]))
                    place += step
                    await trio.sleep(draw.random() * 0.01)
                await logged(redis_server, "task:t", len(numbers))
                await trio.sleep(0.1)

        for start in starts:
            nursery.start_soon(relay, start)
    assert numbers_in_log(redis_server, "task:t") == numbers


async def test_many_equal_ones_in_a_row_stay_as_many(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis, ingesting(redis) as first, ingesting(redis) as second:
        first(*[task_message("t", 1)] * 100)
        await logged(redis_server, "task:t", 100)
        second(*[task_message("t", 1)] * 100)
        await trio.sleep(0.2)
        second(task_message("t", 2))
        await logged(redis_server, "task:t", 101)
    assert numbers_in_log(redis_server, "task:t") == [1] * 100 + [2]


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> float:
    """Digests are forgotten in fractions of a second; returns the time after which a count starts again."""
    monkeypatch.setattr("relay.broker.publish_ingester.DEDUP_TTL", 2.0)
    monkeypatch.setattr("relay.core.occurrences.DEDUP_WINDOW", 0.8)
    monkeypatch.setattr("relay.core.occurrences.MAX_LAG", 0.3)
    return 0.8


async def test_equal_ones_that_are_meant_as_several_stay_several(short_times: float, redis_server: RedisServer) -> None:
    """However far apart, and however the time between them compares to how long a count is kept, here and in Redis."""
    async with opened(redis_server) as redis, ingesting(redis) as first, ingesting(redis) as second:

        async def publish_thrice(task_id: str, apart: float) -> None:
            for count in range(1, 4):
                for receive in (first, second) if count % 2 else (second, first):
                    receive(task_message(task_id, 1))
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
    async with opened(redis_server) as redis, ingesting(redis) as first:
        first(message)
        await logged(redis_server, "task:t", 1)
        async with ingesting(redis) as second:
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
            async with ingesting(redis) as receive:
                receive(message)
                await logged(redis_server, "task:t", count)
            await trio.sleep(0.1)
    assert numbers_in_log(redis_server, "task:t") == [1, 1, 1]


async def test_a_relay_that_was_cut_off_between_two_equal_ones_counts_anew(redis_server: RedisServer) -> None:
    first, second = (task_message("t", number) for number in (1, 2))
    async with opened(redis_server) as redis, ingesting(redis) as other:
        lone = redis.publish_ingester(lambda _: None, lambda: None)

        def receive(message: bytes) -> None:
            lone.on_message(read_published(TASK_UPDATES, message, monotonic()), message)
            lone.on_turn_end()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lone.run)
            receive(first)
            other(first)
            await logged(redis_server, "task:t", 1)
            other(first)  # this one it has missed
            await logged(redis_server, "task:t", 2)
            await trio.sleep(0.1)
            lone.on_reconnecting()
            receive(first)  # and this one the other has
            await logged(redis_server, "task:t", 3)
            receive(second)
            await logged(redis_server, "task:t", 4)
            nursery.cancel_scope.cancel()
    assert numbers_in_log(redis_server, "task:t") == [1, 1, 1, 2]


async def test_what_waited_in_vain_is_not_waited_for_again_before_something_is_recorded(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Update] = []
    async with opened(redis_server) as redis, ingesting(redis, live_only=lost) as receive:
        receive(task_message("t", 1))
        await logged(redis_server, "task:t", 1)
        with redis_server.client() as admin:
            admin.config_set("min-replicas-to-write", 1)
            monkeypatch.setattr("relay.core.plain_order.MAX_WAIT", 0.3)
            receive(task_message("t", 2))
            with trio.fail_after(10):
                while not lost:  # noqa: ASYNC110 - nobody tells us
                    await trio.sleep(0.01)
            monkeypatch.setattr("relay.core.plain_order.MAX_WAIT", 1000.0)
            receive(task_message("t", 3))
            with trio.fail_after(10):
                while len(lost) < 2:  # noqa: ASYNC110 - as above
                    await trio.sleep(0.01)
            admin.config_set("min-replicas-to-write", 0)
        receive(task_message("t", 4))
        await logged(redis_server, "task:t", 2)
    assert numbers_in_log(redis_server, "task:t") == [1, 4]


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

        def persisted() -> Any:  # not tried within half a second of the last that was refused
            redis_server.publish_task("t", n=3)
            got = client.receive()
            assert got["data"] == {"n": 3}
            return got.get("position")

        assert eventually(persisted) == {"epoch": position["epoch"], "offset": 1}


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
