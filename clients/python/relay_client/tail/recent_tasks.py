"""Which tasks `relay tail --all` follows: the most recent ones, as far as a relay allows."""

from collections import OrderedDict
from collections.abc import Iterable

from relay_wire.channels import MAX_NAME_LENGTH

from relay_client.subscriber import Update


class RecentTasks:
    """The most recent tasks.

    Args:
        limit: How many.
        pinned: Tasks that are always followed, and not counted.
    """

    def __init__(self, limit: int, pinned: Iterable[str] = ()) -> None:
        self._limit = limit
        self._pinned = frozenset(pinned)
        self._tasks: OrderedDict[str, None] = OrderedDict()  # the most recent is the last

    def touch(self, task_id: str) -> tuple[bool, str | None]:
        """Take note of activity. Return whether the task is new, and which one has to make room for it."""
        if task_id in self._pinned:
            return False, None
        is_new = task_id not in self._tasks
        self._tasks[task_id] = None
        self._tasks.move_to_end(task_id)
        return is_new, self._tasks.popitem(last=False)[0] if len(self._tasks) > self._limit else None

    def add_older(self, task_id: str) -> bool:
        """Add a task that is less recent than all others. Return whether it is new and there is room for it."""
        if task_id in self._pinned or task_id in self._tasks or len(self._tasks) >= self._limit:
            return False
        self._tasks[task_id] = None
        self._tasks.move_to_end(task_id, last=False)
        return True


def announced_task(update: Update) -> str | None:
    """Return the id of the task that a general update announces, None if it announces none."""
    data = update.data if isinstance(update.data, dict) else {}
    info = data.get("task_info") if data.get("type") == "task_created" else None
    task_id = info.get("task_id") if isinstance(info, dict) else None
    if isinstance(task_id, bool) or not isinstance(task_id, str | int):
        return None
    return str(task_id) if 1 <= len(str(task_id)) <= MAX_NAME_LENGTH else None
