"""The lag of the event loop: what a task would see that sleeps a tenth of a second again and again."""

import time

import trio

from relay.server.event_loop_lag import EventLoopLag


class _Turns:
    """The waits and turns of an event loop on a clock of our own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lags: list[float] = []
        self.lag = EventLoopLag(lambda seconds: self.lags.append(round(seconds, 3)), lambda: self.now)

    def wait(self, timeout: float, seconds: float | None = None) -> None:
        """Wait for events, for as long as asked for or for so many seconds."""
        self.lag.before_io_wait(timeout)
        self.now += timeout if seconds is None else seconds
        self.lag.after_io_wait(timeout)

    def run(self, seconds: float) -> None:
        """Run tasks for so long."""
        self.now += seconds


def test_a_loop_that_waits_is_looked_at_ten_times_a_second() -> None:
    turns = _Turns()
    for _ in range(8):
        turns.wait(0.25)
        turns.run(0.001)
    turns.wait(0.0)
    assert len(turns.lags) in (19, 20)
    assert set(turns.lags) <= {0.0, 0.001}


def test_what_is_due_while_tasks_run_waits_for_their_end() -> None:
    turns = _Turns()
    turns.wait(0.05)
    turns.run(0.5)  # a look was due after 0.05 of it
    turns.wait(0.0)
    assert turns.lags == [0.45]
    turns.wait(0.09)
    turns.wait(0.02)  # a tenth of a second after the last look
    turns.wait(0.0)
    assert turns.lags == [0.45, 0.0]


def test_a_wait_that_ends_late_is_lag() -> None:
    turns = _Turns()
    turns.wait(0.06, 0.36)  # it was to end 0.04 before a look was due
    turns.wait(0.0)
    assert turns.lags == [0.26]


def test_a_wait_that_ends_early_is_none() -> None:
    turns = _Turns()
    turns.wait(0.25, 0.08)
    turns.wait(0.25, 0.08)
    turns.wait(0.0)
    assert turns.lags == [0.0]


async def test_trio_reports_a_turn_that_blocks() -> None:
    lags: list[float] = []
    lag = EventLoopLag(lags.append)
    trio.lowlevel.add_instrument(lag)
    try:
        await trio.lowlevel.checkpoint()
        time.sleep(0.3)  # noqa: ASYNC251 - to block is what is tested
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
    finally:
        trio.lowlevel.remove_instrument(lag)
    assert max(lags) >= 0.19
