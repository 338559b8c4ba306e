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
