"""The gate through which clients come in: who waits, who is refused, and what a drain does to those who wait."""

import trio
from trio.testing import MockClock

from relay.core.connect_pace import ReturnSchedule
from relay.server.connect_gate import ConnectGate
from tests.server.world import MakeWorld, World, settled


def gate_of(world: World, rate: float, max_wait: float = 5.0) -> ConnectGate:
    return ConnectGate(rate, max_wait, world.sessions, ReturnSchedule(rate, lambda: 0.0))


async def test_an_avalanche_comes_in_one_after_the_other(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    gate = gate_of(make_world(), 10.0)
    entered: list[tuple[float, int]] = []
    refused: list[float] = []
    started = trio.current_time()

    async def connect(number: int) -> None:
        delay = await gate.enter()
        if delay is None:
            entered.append((trio.current_time() - started, number))
        else:
            refused.append(delay)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(connect, number)
            await settled()
    assert len(entered) + len(refused) == 100
    assert 40 <= len(entered) <= 52, "those for whom the wait is short enough"
    assert [number for _, number in entered] == sorted(number for _, number in entered), (
        "in the order in which they came"
    )
    assert max(at for at, _ in entered) <= 5.0
    for second in range(5):
        assert sum(second <= at < second + 1 for at, _ in entered) <= 10
    assert len(set(refused)) == len(refused), "each of the others has a place of its own"
    assert min(refused) >= 2.5, "when there is room again"


async def test_a_drain_ends_the_wait(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world()
    gate = gate_of(world, 1.0)
    assert await gate.enter() is None
    answers: list[float | None] = []

    async def connect() -> None:
        answers.append(await gate.enter())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        await settled()
        world.sessions.start_draining()
    assert len(answers) == 1
    assert answers[0] is not None


async def test_a_client_that_gives_up_takes_no_turn(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    gate = gate_of(make_world(), 1.0)
    assert await gate.enter() is None
    with trio.move_on_after(0.5):
        await gate.enter()
    started = trio.current_time()
    assert await gate.enter() is None
    assert trio.current_time() - started < 0.6


async def test_without_a_limit_nobody_waits(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    gate = gate_of(make_world(), 0.0)
    started = trio.current_time()
    assert [await gate.enter() for _ in range(1000)] == [None] * 1000
    assert trio.current_time() == started
