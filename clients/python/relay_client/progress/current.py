"""The task that the running code belongs to: `current_task` finds it wherever the code was called from.

A reporter's block and the integrations of job queues set it, in a context variable: each thread, asyncio task, Trio task and
greenlet has its own.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from relay_client.cancellation.event import CancelEvent
from relay_client.progress.task import Task

_T = TypeVar("_T")


class NoTask(Task):
    """The task of code that runs outside of any task: what it reports goes nowhere, at the cost of the call alone."""

    def __init__(self) -> None:
        self.id = ""
        self.raises = False
        self.cancelled = CancelEvent()
        self._stopped = None

    @property
    def failure(self) -> Exception | None:
        """None: nothing is reported, so nothing fails."""
        return None

    def progress(
        self, progress: float | None = None, message: str | None = None, *, stage: str | None = None, **fields: Any
    ) -> None:
        """Report nothing."""

    def append(self, name: str, delta: str | list[Any]) -> None:
        """Append nothing."""

    def track(self, items: Iterable[_T], **options: Any) -> Iterator[_T]:  # noqa: ARG002
        """Iterate over items."""
        return iter(items)

    def atrack(self, items: AsyncIterable[_T], **options: Any) -> AsyncIterator[_T]:  # noqa: ARG002
        """Iterate over items with ``async for``."""
        return aiter(items)

    def request_cancel(self, reason: str = "") -> None:
        """Do nothing."""


_NO_TASK = NoTask()

_current: ContextVar[Task] = ContextVar("relay_client.current_task", default=_NO_TASK)


def current_task() -> Task:
    """Return the task that the calling code belongs to.

    Returns:
        The task that a reporter's block or a job queue's integration has begun in this thread, asyncio task, Trio task or
        greenlet. Outside of any task, one that takes every report and does nothing with it; its ``id`` is empty.
    """
    return _current.get()


@contextmanager
def as_current(task: Task) -> Iterator[None]:
    """Make a task the current one within a block."""
    token = _current.set(task)
    try:
        yield
    finally:
        with suppress(ValueError):  # the block ends in another context than it began in: that one has a task of its own
            _current.reset(token)


def set_current(task: Task) -> None:
    """Make a task the current one of this context, until `clear_current`: for hooks that are called before and after a task."""
    _current.set(task)


def clear_current() -> None:
    """Have no current task in this context any more."""
    _current.set(_NO_TASK)
