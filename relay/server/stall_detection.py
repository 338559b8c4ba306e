"""Stall detection: one relay of many marks tasks in progress that have stopped reporting."""

import secrets

import structlog

from relay.broker.task_store import TaskStore
from relay.core.errors import BrokerError
from relay.ticks import sleep_until_tick

_log = structlog.get_logger("relay.stall_detection")

#: Rounds that the lock lasts. Another relay takes its place after that.
_LOCK_ROUNDS = 3


class StallCount:
    """How many tasks this relay has marked as stalled since it started."""

    def __init__(self) -> None:
        self.marked = 0


async def detect_stalls(tasks: TaskStore, stall_seconds: float, count: StallCount) -> None:
    """Mark stalled tasks, and keep the list of tasks within its limits, until cancelled.

    Every relay runs this, and the one that holds the lock does the work. Two at once, when one was frozen while it held the
    lock, do no harm: a mark holds only for the activity that was seen.

    Args:
        tasks: The tasks in Redis.
        stall_seconds: A task in progress without an update or a heartbeat for this long is stalled.
        count: Counts the marked ones.
    """
    token = secrets.token_hex(8)
    interval = min(5.0, max(0.25, stall_seconds / 4))
    held = False
    while True:
        await sleep_until_tick(interval)
        try:
            holds = await tasks.lock(token, interval * _LOCK_ROUNDS)
            if holds != held:
                held = holds
                _log.info("detecting stalled tasks" if held else "another relay detects stalled tasks")
            if held:
                marked = await tasks.mark_stalled(stall_seconds)
                count.marked += marked
                if marked:
                    _log.warning("tasks stalled", count=marked, silent_for=stall_seconds)
                await tasks.forget_old()
        except BrokerError as error:
            held = False
            _log.warning("stalled tasks are not detected now", error=str(error))
