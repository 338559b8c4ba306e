"""Handlers: a function for each kind of task, its limits, and how it is called."""

import asyncio
import contextvars
import inspect
import random
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from relay_client.progress.outcome import error_text
from relay_client.progress.task import Task

Params = Mapping[str, Any]
Result = Mapping[str, Any] | None
Function = Callable[[Task, Params], Result] | Callable[[Task, Params], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler with its limits.

    Attributes:
        function: Takes the task, on which it reports, and the task's parameters.
        attempts: How often a task is tried, at least once.
        backoff: Seconds before the second attempt; doubled for each further one, with jitter.
        max_backoff: Upper bound of the pauses, in seconds.
        timeout: Seconds for one attempt; None: no limit.
    """

    function: Function
    attempts: int
    backoff: float
    max_backoff: float
    timeout: float | None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"a handler is a function of a task and its parameters, not {self.function!r}")
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts!r}")
        if not 0 < self.backoff <= self.max_backoff < float("inf"):
            raise ValueError("backoff must be over 0 s and at most max_backoff")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be over 0 s, not {self.timeout!r}")

    @property
    def is_async(self) -> bool:
        """Whether the handler runs on the event loop, not in a thread."""
        return inspect.iscoroutinefunction(self.function)

    def pause(self, attempt: int) -> float:
        """Return the seconds between an attempt, counted from 1, and the next; half of them random, to spread retries."""
        longest = min(self.max_backoff, self.backoff * 2.0 ** min(attempt - 1, 30))
        return random.uniform(longest / 2, longest)

    async def __call__(self, task: Task, params: Params) -> Result:
        """Call the function. Cancelling cancels an async one; the thread of any other goes on, and its outcome is lost."""
        if self.is_async:
            return _checked(await self.function(task, params))  # type: ignore[misc]
        return _checked(await _in_thread(self.function, task, params))


def _checked(result: Any) -> Result:
    if result is None or isinstance(result, Mapping):
        return result
    raise TypeError(
        f"a handler returns nothing, or a mapping of further fields of its task, not {type(result).__name__}"
    )


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a thread.

    Not by `asyncio.to_thread`, whose threads are joined when the process ends: a handler that hangs would keep the process.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(result)
        else:
            outcome.set_exception(error)

    def run() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = context.run(function, *arguments)
        except BaseException as raised:  # noqa: BLE001 - it is raised in the task that waits
            # A future takes no StopIteration, and asyncio lets some others end the worker.
            is_plain = isinstance(raised, Exception) and not isinstance(raised, StopIteration)
            error = raised if is_plain else RuntimeError(f"the handler raised {error_text(raised)}")
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    context = contextvars.copy_context()
    threading.Thread(target=run, name=f"relay-{getattr(function, '__name__', 'handler')}", daemon=True).start()
    return await outcome
