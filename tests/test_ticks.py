"""Ticks: periodic work is due at common times, in one turn of the event loop."""

import trio
import trio.testing

from relay.ticks import TICK, sleep_until_tick


async def test_work_with_different_periods_is_due_at_the_same_moments(autojump_clock: trio.testing.MockClock) -> None:
    times: dict[float, list[float]] = {TICK: [], 1.0: [], 3.0: []}

    async def work(period: float, begins_after: float) -> None:
        await trio.sleep(begins_after)
        while True:
            await sleep_until_tick(period)
            times[period].append(trio.current_time())

    with trio.move_on_after(9.1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, TICK, 0.0)
            nursery.start_soon(work, 1.0, 0.13)
            nursery.start_soon(work, 3.0, 0.77)
    assert times[3.0] == [3.0, 6.0, 9.0]
    assert times[1.0] == [float(second) for second in range(1, 10)]
    assert set(times[1.0]) < set(times[TICK])


async def test_times_that_have_passed_are_left_out(autojump_clock: trio.testing.MockClock) -> None:
    await trio.sleep(2.3)  # longer than the period
    await sleep_until_tick(1.0)
    assert trio.current_time() == 3.0


async def test_one_that_is_cancelled_takes_nobody_along(autojump_clock: trio.testing.MockClock) -> None:
    woken: list[tuple[int, float]] = []

    async def sleep(number: int, patience: float) -> None:
        with trio.move_on_after(patience):
            await sleep_until_tick(4.0)
            woken.append((number, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for number, patience in enumerate((1.0, 2.0, 3.0, 9.0, 9.0)):
            nursery.start_soon(sleep, number, patience)
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(woken) == [(3, 4.0), (4, 4.0)]


async def test_a_cancelled_sleep_ends_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep_until_tick, 4.0)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.5) as scope:
            await sleep_until_tick(4.0)
        assert scope.cancelled_caught
        assert trio.current_time() == 0.5
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 0.5
