"""Requests have their turns: bounded in all and for each address, and nothing is left of those that went."""

import pytest
import trio
from trio.testing import MockClock

from relay.server.request_limit import (
    MAX_PER_ADDRESS,
    MAX_PREPARED,
    MAX_REQUESTS,
    MAX_WAIT,
    MAX_WAITING,
    RequestLimit,
    TooManyRequests,
)


async def test_one_address_cannot_have_all_turns(autojump_clock: MockClock) -> None:
    limit = RequestLimit()
    served = {"a": 0, "b": 0}
    refused: list[float] = []

    async def request(address: str, seconds: float) -> None:
        try:
            async with limit.turn(address) as turn:
                turn.prepared()
                served[address] += 1
                await trio.sleep(seconds)
        except TooManyRequests:
            refused.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(request, "a", 100)
        await trio.sleep(0.1)
        nursery.start_soon(request, "b", 1)
        await trio.sleep(0.1)
        assert served == {"a": MAX_PER_ADDRESS, "b": 1}
        await trio.sleep(MAX_WAIT)
        assert refused == [MAX_WAIT] * (20 - MAX_PER_ADDRESS)
    async with trio.open_nursery() as nursery:
        for number in range(MAX_REQUESTS):
            served[str(number)] = 0
            nursery.start_soon(request, str(number), 1)
        await trio.sleep(0.1)
        assert sum(served[str(number)] for number in range(MAX_REQUESTS)) == MAX_REQUESTS
    assert limit._addresses == {}


async def test_few_may_wait_and_who_is_cancelled_leaves_nothing(autojump_clock: MockClock) -> None:
    limit = RequestLimit()

    async def request() -> None:
        async with limit.turn("a") as turn:
            turn.prepared()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(MAX_PER_ADDRESS):
            nursery.start_soon(request)
        await trio.sleep(0.1)
        for _ in range(MAX_WAITING):
            nursery.start_soon(request)
        await trio.sleep(0.1)
        with pytest.raises(TooManyRequests):
            async with limit.turn("b"):
                pass
        nursery.cancel_scope.cancel()
    assert limit._addresses == {}
    async with limit.turn("a"):
        pass


async def test_few_answers_are_made_at_a_time(autojump_clock: MockClock) -> None:
    limit = RequestLimit()
    preparing = 0

    async def request(number: int) -> None:
        nonlocal preparing
        async with limit.turn(str(number)) as turn:
            preparing += 1
            assert preparing <= MAX_PREPARED
            await trio.sleep(0.1)
            preparing -= 1
            if number % 2:
                turn.prepared()
                turn.prepared()
            await trio.sleep(0.3)

    async with trio.open_nursery() as nursery:
        for number in range(MAX_REQUESTS):
            nursery.start_soon(request, number)
    assert limit._addresses == {}
