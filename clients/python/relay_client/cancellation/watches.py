"""The tasks of a process whose cancellation may be requested, and what is known of each.

    added -> unread -> watched -> cancelled
               ^          |
               +----------+  messages may have been missed: the connection is a new one

Unread means that the task's flag in Redis must be read. A message cancels a task in either state. A request for a parent
reaches its children: with the flag comes the name of the parent, which is then watched as well, and so on upwards. This module
does no I/O, and belongs to one thread; only a watch's event may be used from others.
"""

import logging
from collections.abc import Callable, Iterable

from relay_client.cancellation.event import CancelEvent

_log = logging.getLogger("relay_client")


class Watch:
    """A running task whose cancellation may be requested.

    Attributes:
        task_id: The task.
        cancelled: Whether, and why, its cancellation was requested.
    """

    __slots__ = ("_on_cancel", "_release", "cancelled", "task_id")

    def __init__(
        self, task_id: str, on_cancel: Callable[[str], object] | None, release: Callable[["Watch"], object]
    ) -> None:
        """Make a watch.

        Args:
            task_id: The task.
            on_cancel: Called once with the reason. It must neither block nor raise.
            release: Called by `close`.
        """
        self.task_id = task_id
        self.cancelled = CancelEvent()
        self._on_cancel = on_cancel
        self._release = release

    def request(self, reason: str) -> None:
        """Note a request; only the first counts."""
        if self.cancelled:
            return
        self.cancelled.set(reason)
        if self._on_cancel is not None:
            try:
                self._on_cancel(reason)
            except Exception:  # noqa: BLE001 - other people's code: it must not end the listener
                _log.exception(
                    "task %s: its cancellation was requested, and the callback for that failed", self.task_id
                )

    def close(self) -> None:
        """Watch no longer: the task has ended, or belongs to another worker."""
        self._on_cancel = None
        self._release(self)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Watches:
    """All watches of a process."""

    def __init__(self, on_unread: Callable[[], None]) -> None:
        """Make it without watches; on_unread: called when there are flags to read."""
        self._on_unread = on_unread
        self._watches: dict[str, dict[Watch, None]] = {}
        self._unread: dict[str, None] = {}
        #: The watches that tasks have on their parents.
        self._links: dict[str, Watch] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def add(self, watch: Watch) -> None:
        """Add a watch. Its flag is read even if another watch's of the same task was: that may have been long ago."""
        self._watches.setdefault(watch.task_id, {})[watch] = None
        self.mark_unread([watch.task_id])

    def discard(self, watch: Watch) -> None:
        """Remove a watch, if it is there."""
        of_task = self._watches.get(watch.task_id, {})
        of_task.pop(watch, None)
        if not of_task:
            self._watches.pop(watch.task_id, None)
            self._unread.pop(watch.task_id, None)
            link = self._links.pop(watch.task_id, None)
            if link is not None:
                link.close()

    def mark_all_unread(self) -> None:
        """Note that messages may have been missed."""
        self.mark_unread(self._watches)

    def mark_unread(self, task_ids: Iterable[str]) -> None:
        """Note that the flags of tasks must be read, of those that are watched still."""
        self._unread.update(dict.fromkeys(task_id for task_id in task_ids if task_id in self._watches))
        if self._unread:
            self._on_unread()

    def take_unread(self, limit: int) -> list[str]:
        """Take some tasks whose flags are about to be read."""
        taken = list(self._unread)[:limit] if len(self._unread) > limit else list(self._unread)
        for task_id in taken:
            del self._unread[task_id]
        return taken

    def on_flag(self, task_id: str, reason: str | None, parent_id: str | None) -> None:
        """Note what Redis has of a task: why its cancellation was requested, if it was, and its parent, if it has one."""
        if reason is not None:
            self.request(task_id, reason)
        elif parent_id is not None and task_id in self._watches and not self._is_self_or_ancestor(task_id, parent_id):
            known = self._links.get(task_id)
            # One that has seen a request must see the next as well: this may be another task below the parent.
            if known is None or known.task_id != parent_id or known.cancelled:
                link = Watch(parent_id, lambda reason: self.request(task_id, reason), self.discard)
                self._links[task_id] = link
                self.add(link)
                if known is not None:
                    known.close()

    def _is_self_or_ancestor(self, task_id: str, other: str) -> bool:
        """Return whether a task is another one, or one of its parents: what publishers say may go round in a circle."""
        while other != task_id:
            link = self._links.get(other)
            if link is None:
                return False
            other = link.task_id
        return True

    def request(self, task_id: str, reason: str) -> None:
        """Note that a task's cancellation was requested; nothing happens if it is not watched."""
        for watch in tuple(self._watches.get(task_id, ())):
            watch.request(reason)
