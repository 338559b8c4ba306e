"""A turnstile lets so many tasks through in each turn of the event loop."""

import trio
from trio.testing import MockClock

from relay.server.turnstile import TurnLimit, Turnstile


async def test_so_many_go_on_in_a_turn_and_all_in_the_end(autojump_clock: MockClock) -> None:
    turnstile = Turnstile(3)
    passed: list[int] = []
    turn = 0
    turns: list[int] = []

    async def task(number: int) -> None:
        await turnstile.turn()
        passed.append(number)
        turns.append(turn)

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(task, number)
        while len(passed) < 30:
            await trio.lowlevel.checkpoint()
            turn += 1
    assert sorted(passed) == list(range(30))
    assert max(turns.count(number) for number in set(turns)) <= 3


async def test_who_gives_up_holds_nobody_back(autojump_clock: MockClock) -> None:
    turnstile = Turnstile()
    with trio.move_on_after(0):
        await turnstile.turn()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(turnstile.turn)
        with trio.move_on_after(0):
            await turnstile.turn()
    with trio.fail_after(1):
        await turnstile.turn()


async def test_the_first_of_a_turn_go_on_at_once_and_the_rest_wait(autojump_clock: MockClock) -> None:
    limit = TurnLimit(3)
    for _ in range(2):
        waits: list[bool] = []
        for _ in range(3):
            with trio.move_on_after(0) as scope:
                await limit.turn()
            waits.append(scope.cancelled_caught)
        with trio.move_on_after(0) as scope:
            await limit.turn()
        assert [*waits, scope.cancelled_caught] == [False, False, False, True]
        await trio.sleep(1)
    passed = 0

    async def task() -> None:
        nonlocal passed
        await limit.turn()
        passed += 1

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(task)
        await trio.lowlevel.checkpoint()
        assert passed <= 6
    assert passed == 30
