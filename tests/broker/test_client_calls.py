"""Clients' reads: shared, in bounded round trips, and never more than may wait."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.broker.client_calls import CONNECTIONS, MAX_WAITING, ClientCalls
from relay.core.errors import BrokerBusy, BrokerRefused, BrokerUnavailable

SCRIPT = Script.of("return KEYS[1]")


def call(name: str) -> ScriptCall:
    return ScriptCall(SCRIPT, [name], [])


class SlowRedis:
    """Answers each call with its key, once it may."""

    def __init__(self) -> None:
        self.round_trips: list[list[str]] = []
        self.may_answer = trio.Event()
        self.error: Exception | None = None

    async def run_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        self.round_trips.append([call.keys[0] for call in calls])
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return [call.keys[0] for call in calls]


async def test_equal_reads_of_one_turn_are_one(autojump_clock: MockClock) -> None:
    redis, answers = SlowRedis(), []
    reads = ClientCalls(redis.run_calls, CONNECTIONS, 2.0)

    async def ask(*names: str) -> None:
        answers.append(await reads.run_calls([call(name) for name in names]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reads.run)
        await wait_all_tasks_blocked()
        for _ in range(100):
            nursery.start_soon(ask, "same")
        nursery.start_soon(ask, "a", "b")
        await wait_all_tasks_blocked()
        assert [sorted(names) for names in redis.round_trips] == [["a", "b", "same"]]
        nursery.start_soon(ask, "same")  # it asks later, and must not get an older answer
        await wait_all_tasks_blocked()
        assert redis.round_trips[1:] == [["same"]]
        redis.may_answer.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sorted(answers) == [["a", "b"], *[["same"]] * 101]


async def test_round_trips_are_bounded(autojump_clock: MockClock) -> None:
    redis = SlowRedis()
    redis.may_answer.set()
    reads = ClientCalls(redis.run_calls, CONNECTIONS, 2.0)
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(reads.run_calls, [call(str(number))])
        await wait_all_tasks_blocked()
        nursery.start_soon(reads.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert max(map(len, redis.round_trips)) == 32
    assert sum(map(len, redis.round_trips)) == 200


async def test_beyond_the_bound_nobody_waits(autojump_clock: MockClock) -> None:
    redis = SlowRedis()
    reads = ClientCalls(redis.run_calls, CONNECTIONS, 2.0)
    late: list[str] = []

    async def ask(name: str) -> None:
        with pytest.raises(BrokerUnavailable):
            await reads.run_calls([call(name)])
        late.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reads.run)
        for number in range(MAX_WAITING):
            nursery.start_soon(ask, str(number))
        await wait_all_tasks_blocked()
        started = trio.current_time()
        with pytest.raises(BrokerBusy) as caught:
            await reads.run_calls([call("more")])
        assert caught.value.retry_after > 0
        assert trio.current_time() == started
        while len(late) < MAX_WAITING:  # noqa: ASYNC110 - they all end at the same moment
            await trio.sleep(0.1)
        assert trio.current_time() - started == pytest.approx(2.0, abs=0.2)
        sent = len(redis.round_trips)
        redis.may_answer.set()
        assert await reads.run_calls([call("afterwards")]) == ["afterwards"]
        assert len(redis.round_trips) == sent + 1  # what nobody waits for is not read
        nursery.cancel_scope.cancel()


async def test_an_error_is_each_ones_who_asked(autojump_clock: MockClock) -> None:
    redis = SlowRedis()
    redis.error = BrokerRefused("no")
    redis.may_answer.set()
    reads = ClientCalls(redis.run_calls, CONNECTIONS, 2.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reads.run)
        for _ in range(2):
            with pytest.raises(BrokerRefused):
                await reads.run_calls([call("x")])
        nursery.cancel_scope.cancel()


async def test_one_that_gives_up_takes_nothing_from_those_who_share(autojump_clock: MockClock) -> None:
    redis = SlowRedis()
    reads = ClientCalls(redis.run_calls, CONNECTIONS, 2.0)
    answers = []

    async def ask() -> None:
        answers.append(await reads.run_calls([call("x")]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        with trio.move_on_after(0.5):
            await reads.run_calls([call("x")])
        nursery.start_soon(reads.run)
        redis.may_answer.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert answers == [["x"]]
