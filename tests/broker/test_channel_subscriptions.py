"""Channels that are subscribed and read, with a Redis whose answers take their time."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from relay_wire import keys
from relay_wire.publications import Retention, ScriptCall
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.broker import channel_subscriptions
from relay.broker.channel_subscriptions import ChannelSubscriptions
from relay.broker.history_reads import HISTORIES_AT_ONCE
from relay.core.errors import BrokerRefused, BrokerUnavailable
from relay.core.hub import Hub
from relay.core.updates import Position, Update

RETENTION = Retention(1000, 3600, 7200, 3600, 3600)


class Subscriber:
    """A subscription that reads history, and ignores what is live."""

    def __init__(self) -> None:
        self.updates: list[Update] = []

    def on_update(self, update: Update) -> None:
        self.updates.append(update)

    def on_reset(self) -> None: ...


class SlowRedis:
    """Answers reads; at each, one more update has been published that does not come over the subscription."""

    def __init__(self) -> None:
        self.top = 0
        self.answer_of: dict[str, Any] = {}
        self.calls: list[list[tuple[str, int]]] = []  # of clients: channel and offset of each read of a round trip
        self.delay = 0.01
        self.time_outs = 0  # round trips of clients that end by the time-out
        self.hub = Hub(lambda: None, self.on_change, self.on_change, self.on_gap)
        self.channels = ChannelSubscriptions(
            self.hub,
            self.run_calls,
            self.run_client_calls,
            self.subscribe,
            self.unsubscribe,
            RETENTION,
            timeout=5.0,
        )

    def on_change(self, channel: str) -> None:
        self.channels.on_change(channel)

    def on_gap(self, channel: str) -> None:
        self.channels.on_gap(channel)

    async def subscribe(self, names: list[str]) -> set[str]:
        await trio.sleep(0.01)
        for name in names:
            self.channels.on_confirmed(name)
        return set(names)

    async def unsubscribe(self, names: list[str]) -> None:
        await trio.sleep(0.01)

    async def run_client_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        self.calls.append([(channel_of(call), int(call.values[1])) for call in calls])
        if self.time_outs:
            self.time_outs -= 1
            await trio.sleep(5.0)
            raise BrokerUnavailable("Redis did not answer within 5 s")
        await trio.sleep(self.delay)
        return await self.run_calls(calls)

    async def run_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        self.top += 1
        answers: list[Any] = []
        for call in calls:
            since = int(call.values[1])
            flat = [item for offset in range(since + 1, self.top + 1) for item in (b"%d" % offset, b"x", b"{}")]
            answer = [b"e", self.top, flat if call.values[0] else None, [], None]
            answers.append(self.answer_of.get(channel_of(call), answer))
        await trio.sleep(0.01)
        return answers


def channel_of(call: ScriptCall) -> str:
    return keys.channel_of(call.keys[0].removesuffix(":meta"))


@pytest.fixture
async def redis(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> SlowRedis:
    assert isinstance(trio.lowlevel.current_clock(), MockClock), "the test must ask for a clock itself"
    for module in ("channel_subscriptions", "history_reads"):
        monkeypatch.setattr(f"relay.broker.{module}.monotonic", trio.current_time)
    redis = SlowRedis()
    nursery.start_soon(redis.channels.run)
    redis.channels.on_up()
    return redis


async def test_a_client_that_joins_a_channel_just_left_misses_nothing(
    autojump_clock: MockClock, redis: SlowRedis
) -> None:
    for pause in (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05):
        for _ in range(3):
            subscriber = Subscriber()
            redis.hub.start_recovery("task:t", subscriber)
            snapshot = await redis.channels.read("task:t", None)
            position = redis.hub.position("task:t")
            # What the channel has delivered before the history was read is in what was read.
            assert position is not None
            assert position <= snapshot.top
            redis.hub.end_recovery("task:t", subscriber)
            await trio.sleep(pause)


@pytest.mark.parametrize(
    "answer",
    [
        BrokerRefused("WRONGTYPE"),
        [b"\xff\xfe", 1, None, [], None],
        [b"e", b"zzz", None, [], None],
        [b"e", 1, [b"1", b"x"], [], None],
        None,
        7,
    ],
    ids=["refused", "epoch", "top", "entries", "nothing", "a number"],
)
async def test_a_channel_that_cannot_be_read_concerns_no_other_and_is_logged_once(
    autojump_clock: MockClock, redis: SlowRedis, answer: object
) -> None:
    redis.answer_of["task:bad"] = answer
    with capture_logs() as logs:
        for channel in ("task:bad", "task:good", "task:better"):
            redis.hub.start_recovery(channel, Subscriber())
        with trio.fail_after(0.5):
            for channel in ("task:good", "task:better"):
                await redis.channels.read(channel, None)
        with pytest.raises(BrokerRefused):
            await redis.channels.read("task:bad", None)
        await trio.sleep(60)
    assert [log["channel"] for log in logs] == ["task:bad"]
    redis.answer_of.clear()
    assert (await redis.channels.read("task:bad", None)).top.epoch == "e"


async def live(redis: SlowRedis, *channels: str) -> None:
    for channel in channels:
        redis.hub.start_recovery(channel, Subscriber())
        await redis.channels.read(channel, None)
    redis.calls.clear()


async def test_equal_reads_of_one_turn_are_one(
    autojump_clock: MockClock, redis: SlowRedis, nursery: trio.Nursery
) -> None:
    await live(redis, "task:t", "task:u")
    tops: list[Position] = []

    async def read(channel: str, since: Position | None) -> None:
        tops.append((await redis.channels.read(channel, since)).top)

    async with trio.open_nursery() as readers:
        for _ in range(100):
            readers.start_soon(read, "task:t", Position("e", 0))
        readers.start_soon(read, "task:t", Position("e", 1))
        readers.start_soon(read, "task:u", Position("e", 0))
    (calls,) = redis.calls
    assert sorted(calls) == [("task:t", 0), ("task:t", 1), ("task:u", 0)]
    assert len(tops) == 102


async def test_a_read_that_is_asked_for_later_is_another_one(autojump_clock: MockClock, redis: SlowRedis) -> None:
    """What it may have missed since the first was sent is not in the first's answer."""
    await live(redis, "task:t")
    tops: list[int] = []

    async def read() -> None:
        tops.append((await redis.channels.read("task:t", Position("e", 0))).top.offset)

    async with trio.open_nursery() as readers:
        readers.start_soon(read)
        await trio.sleep(0.005)
        readers.start_soon(read)
    assert len(redis.calls) == 2
    assert tops[0] < tops[1]


async def test_the_histories_of_one_round_trip_are_bounded(autojump_clock: MockClock, redis: SlowRedis) -> None:
    await live(redis, "task:t")
    async with trio.open_nursery() as readers:
        for offset in range(3 * HISTORIES_AT_ONCE):
            readers.start_soon(redis.channels.read, "task:t", Position("e", offset))
    assert [len(calls) for calls in redis.calls] == [HISTORIES_AT_ONCE] * 3


async def test_reads_for_clients_do_not_delay_those_of_the_relay(
    autojump_clock: MockClock, redis: SlowRedis, nursery: trio.Nursery
) -> None:
    await live(redis, "task:t")
    redis.delay = 4.0
    for offset in range(10 * HISTORIES_AT_ONCE):
        nursery.start_soon(swallow, redis, Position("e", offset))
    await trio.sleep(0.1)
    redis.hub.start_recovery("task:new", Subscriber())
    started = trio.current_time()
    await redis.channels.read("task:new", None)
    assert trio.current_time() - started < 0.5
    nursery.cancel_scope.cancel()


async def swallow(redis: SlowRedis, since: Position) -> None:
    await redis.channels.read("task:t", since)


async def test_reads_of_clients_that_have_gone_are_not_sent(autojump_clock: MockClock, redis: SlowRedis) -> None:
    await live(redis, "task:t")
    redis.delay = 1.0
    async with trio.open_nursery() as readers:
        for offset in range(5 * HISTORIES_AT_ONCE):
            readers.start_soon(redis.channels.read, "task:t", Position("e", offset))
        await trio.sleep(0.5)
        readers.cancel_scope.cancel()
    await redis.channels.read("task:t", Position("e", 1))
    assert [len(calls) for calls in redis.calls] == [HISTORIES_AT_ONCE, 1]


async def not_served(clock: MockClock, seconds: float, times: int) -> None:
    """The process has to wait for its processor so many times, and is woken late each time."""
    for _ in range(times):
        await wait_all_tasks_blocked()
        clock.jump(seconds)
    await wait_all_tasks_blocked()


async def test_redis_is_not_silent_while_this_process_is_not_served(mock_clock: MockClock, redis: SlowRedis) -> None:
    async with trio.open_nursery() as readers:
        mock_clock.autojump_threshold = 0
        await live(redis, "task:t")
        mock_clock.autojump_threshold = math.inf
        redis.delay = 1000.0
        failed_at: list[float] = []

        async def read(offset: int) -> None:
            try:
                await redis.channels.read("task:t", Position("e", offset))
            except BrokerUnavailable:
                failed_at.append(trio.current_time())

        readers.start_soon(read, 0)  # under way
        await wait_all_tasks_blocked()
        started = trio.current_time()
        readers.start_soon(read, 1)
        await not_served(mock_clock, 2.0, times=8)
        assert failed_at == []
        mock_clock.autojump_threshold = 0  # it is served again, and Redis says nothing
        await trio.sleep(8)
        assert len(failed_at) == 1
        assert failed_at[0] - started < 5 * 5
        readers.cancel_scope.cancel()


async def test_a_time_out_while_this_process_is_not_served_is_no_answer(
    mock_clock: MockClock, redis: SlowRedis
) -> None:
    mock_clock.autojump_threshold = 0
    await live(redis, "task:t")
    redis.time_outs = 1
    with pytest.raises(BrokerUnavailable):  # it was served, so it was Redis
        await redis.channels.read("task:t", Position("e", 0))
    redis.time_outs = 1
    mock_clock.autojump_threshold = math.inf
    tops: list[Position] = []

    async def read() -> None:
        tops.append((await redis.channels.read("task:t", Position("e", 0))).top)

    async with trio.open_nursery() as readers:
        readers.start_soon(read)
        await not_served(mock_clock, 2.0, times=3)
        mock_clock.autojump_threshold = 0
    assert len(tops) == 1


async def test_a_read_is_given_up_when_redis_is_silent(autojump_clock: MockClock, redis: SlowRedis) -> None:
    await live(redis, "task:t")
    redis.delay = 1000.0
    async with trio.open_nursery() as readers:
        readers.start_soon(redis.channels.read, "task:t", Position("e", 0))
        await trio.sleep(0.1)
        started = trio.current_time()
        with pytest.raises(BrokerUnavailable):
            await redis.channels.read("task:t", Position("e", 1))
        assert trio.current_time() - started < 8
        readers.cancel_scope.cancel()


async def test_messages_that_are_not_relays_are_skipped_and_logged_now_and_then(
    autojump_clock: MockClock, redis: SlowRedis
) -> None:
    await live(redis, "task:t")
    name = keys.pubsub_channel("task:t").encode()
    subscriber = Subscriber()
    redis.hub.start_recovery("task:t", subscriber)
    top = redis.hub.position("task:t")
    assert top is not None
    with capture_logs() as logs:
        for message in (b"", b"x", b"e one task_update\n{}", b"\xff 1 task_update\n{}", b"e 1 2 3\n{}"):
            for _ in range(100):
                assert not redis.channels.on_message(name, message)
        redis.channels.on_message(name, b"e %d task_update\n{}" % (top.offset + 1))
        redis.channels.on_message(name, b"- 0 task_update\n{}")
    assert redis.channels.invalid_messages == 500
    assert len(logs) == 1
    assert [update.position for update in subscriber.updates] == [(top.epoch, top.offset + 1), None]
    assert channel_subscriptions._LOG_INTERVAL >= 10


async def resumed(redis: SlowRedis, channel: str, *offsets: int) -> dict[int, list[int]]:
    """What clients get that come at once with these positions."""
    got: dict[int, list[int]] = {}

    async def resume(offset: int) -> None:
        snapshot = await redis.channels.resume(channel, Position("e", offset))
        assert snapshot.entries is not None
        got[offset] = [update.position.offset for update in snapshot.entries if update.position is not None]

    async with trio.open_nursery() as readers:
        for offset in offsets:
            readers.start_soon(resume, offset)
    return got


async def test_clients_that_return_together_share_the_read_from_the_lowest_position(
    autojump_clock: MockClock, redis: SlowRedis
) -> None:
    redis.top = 20
    await live(redis, "task:t")
    top = redis.hub.position("task:t")
    assert top is not None
    got = await resumed(redis, "task:t", 15, 7, 12)
    assert redis.calls == [[("task:t", 7)]]
    for offset, offsets in got.items():
        # A read may bring what was not delivered yet; the rest comes live.
        assert offsets[: top.offset - offset] == list(range(offset + 1, top.offset + 1))
    assert redis.channels.recent("task:t", Position("e", 9)) is not None
    assert redis.channels.recent("task:t", Position("e", 5)) is None
    await resumed(redis, "task:t", 5)
    assert redis.calls[1:] == [[("task:t", 5)]], "who was away for longer has to be read for"


async def test_the_read_of_a_channel_that_begins_serves_all_that_return_to_it(
    autojump_clock: MockClock, redis: SlowRedis
) -> None:
    redis.top = 20
    redis.hub.start_recovery("task:t", Subscriber())
    got = await resumed(redis, "task:t", 15, 7, 12)
    assert redis.calls == []
    assert {offset: offsets[0] for offset, offsets in got.items()} == {15: 16, 7: 8, 12: 13}


async def test_an_owner_is_read_as_it_is_now(autojump_clock: MockClock, redis: SlowRedis) -> None:
    await live(redis, "task:t")
    await resumed(redis, "task:t", 0)
    assert redis.channels.recent("task:t", Position("e", 0)) is not None
    redis.calls.clear()
    await redis.channels.read("task:t", Position("e", 0))
    assert redis.calls == [[("task:t", 0)]]


async def test_what_was_read_is_forgotten_soon(autojump_clock: MockClock, redis: SlowRedis) -> None:
    await live(redis, "task:t")
    await resumed(redis, "task:t", 0)
    assert redis.hub.histories.expire(trio.current_time()) == 1
    await trio.sleep(60)
    assert not redis.hub.histories._all, "without a client that asks"


async def test_other_epochs_do_not_wait_for_each_other(autojump_clock: MockClock, redis: SlowRedis) -> None:
    await live(redis, "task:t")
    async with trio.open_nursery() as readers:
        for number in range(3 * HISTORIES_AT_ONCE):
            readers.start_soon(redis.channels.resume, "task:t", Position(f"e{number}", 1))
    assert [len(calls) for calls in redis.calls] == [HISTORIES_AT_ONCE] * 3
