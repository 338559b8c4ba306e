"""A turnstile lets so many tasks through in each turn of the event loop."""

import trio
from trio.testing import MockClock

from relay.server.turnstile import Turnstile


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
