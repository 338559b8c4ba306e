"""Tasks in progress that fall silent are marked as stalled, by one relay of many."""

import secrets

import structlog
import trio

from relay.broker.task_store import TaskStore
from relay.core.errors import BrokerError

_log = structlog.get_logger("relay.supervision")

#: The lock lasts for so many rounds: the next relay takes over after that.
_LOCK_ROUNDS = 3


async def supervise_tasks(tasks: TaskStore, stall_seconds: float) -> None:
    """Mark silent tasks, and keep the list of tasks within its bounds, until cancelled.

    Every relay runs this; the one that holds the lock does it. Two at once, when one was frozen while it held the lock,
    do no harm: a mark holds only for the activity that was seen.
    """
    token = secrets.token_hex(8)
    interval = min(5.0, max(0.25, stall_seconds / 4))
    held = False
    while True:
        await trio.sleep(interval)
        try:
            holds = await tasks.lock(token, interval * _LOCK_ROUNDS)
            if holds != held:
                held = holds
                _log.info("supervising tasks" if held else "another relay supervises tasks")
            if held:
                marked = await tasks.mark_stalled(stall_seconds)
                if marked:
                    _log.warning("tasks stalled", count=marked, silent_for=stall_seconds)
                await tasks.forget_old()
        except BrokerError as error:
            held = False
            _log.warning("tasks are not supervised now", error=str(error))
