"""One attempt at a task: its handler runs, may be stopped, and has an outcome."""

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import Any

from relay_client.encoding import encode_fields
from relay_client.progress.current import as_current
from relay_client.progress.outcome import TaskCancelled, error_text, safe_str, terminal_fields
from relay_client.progress.task import Task
from relay_client.progress.values import utc_now_iso
from relay_wire.statuses import FAILED, PENDING

from relay_jobs.errors import TaskFailed
from relay_jobs.handlers import Handler, Params, Result
from relay_jobs.queue import Entry


class Stop(Enum):
    """Why an attempt is stopped."""

    CANCELLED = "its cancellation was requested"
    LOST = "another worker has it"
    HANDOVER = "this worker ends"
    TIMEOUT = "it takes too long"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an attempt.

    Attributes:
        status: The task's status from now on.
        fields: The last fields of this attempt.
        retry_in: Seconds until the next attempt; None if there is none.
        is_released: The next worker that looks is to continue it; the attempt does not count.
    """

    status: str
    fields: dict[str, Any]
    retry_in: float | None = None
    is_released: bool = False

    @property
    def reason(self) -> str:
        """The text of the outcome for the log."""
        waits = self.fields.get("message") if self.status == PENDING else ""
        return str(self.fields.get("error") or waits or "")


class Attempt:
    """An attempt that runs.

    Attributes:
        entry: Its place in the queue.
        owner: The attempt's unique name, by which Redis knows it.
        task: On which the handler reports.
        stopped: Why it was stopped; None if it was not.
        is_over: It has an outcome, which is being published.
        is_settled: Redis has the outcome, or another worker has the task.
    """

    def __init__(self, entry: Entry, owner: str, number: int, handler: Handler, task: Task) -> None:
        """Make an attempt, which does not run yet; number: counted from 1."""
        self.entry = entry
        self.owner = owner
        self.task = task
        self.stopped: Stop | None = None
        self.is_over = self.is_settled = False
        self._number = number
        self._handler = handler
        self._running: asyncio.Task[tuple[Result, BaseException | None]] | None = None

    def stop(self, reason: Stop) -> None:
        """Have the handler end, unless it has. The first reason counts."""
        if self.stopped is not None or (self._running is not None and self._running.done()):
            return
        self.stopped = reason
        # A thread has no other way to notice that it is to end, whatever the reason.
        self.task.request_cancel(reason.value)
        if self._running is not None and self._handler.is_async:
            self._running.cancel()

    async def run(self, group: asyncio.TaskGroup, params: Params) -> Outcome:
        """Run the handler to its end.

        Cancelling cancels an async handler; the thread of any other goes on, and its outcome is lost.
        """
        self._running = running = group.create_task(self._handled(params))
        try:
            if not (await asyncio.wait({running}, timeout=self._handler.timeout))[0]:
                self.stop(Stop.TIMEOUT)
                await asyncio.wait({running})
        finally:
            running.cancel()
        if running.cancelled():
            return self._outcome(None, asyncio.CancelledError("it cancelled itself"))
        return self._outcome(*running.result())

    async def _handled(self, params: Params) -> tuple[Result, BaseException | None]:
        """Whatever a handler raises is an outcome of its task, and ends neither the worker nor other tasks.

        But for KeyboardInterrupt, which is the operator's: asyncio raises it wherever the program happens to be.
        """
        try:
            with as_current(self.task):
                return await self._handler(self.task, params), None
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001
            return None, error

    def _outcome(self, result: Result, error: BaseException | None) -> Outcome:
        if error is None:
            return _success(result)
        if isinstance(error, asyncio.CancelledError | TaskCancelled):
            match self.stopped:
                case Stop.HANDOVER:
                    return HANDED_OVER
                case Stop.TIMEOUT:
                    error = TimeoutError(f"not done within {self._handler.timeout:g} s")
                case _ if self.stopped is Stop.CANCELLED or isinstance(error, TaskCancelled):
                    return cancellation()
        elif self.stopped is Stop.CANCELLED:
            return cancellation()
        if isinstance(error, TaskFailed) or self._number >= self._handler.attempts:
            return failure(safe_str(error) if isinstance(error, TaskFailed) else error_text(error))
        pause = self._handler.pause(self._number)
        # Not as ``error``: the next attempt may be a success.
        number = f"Attempt {self._number} of {self._handler.attempts}"
        message = f"{number} failed, the next is in {pause:.1f} s: {error_text(error)}"
        return Outcome(PENDING, {"message": message}, retry_in=pause)


HANDED_OVER = Outcome(PENDING, {"message": "Handed over to another worker"}, is_released=True)


def _success(result: Result) -> Outcome:
    try:
        fields = encode_fields(result or {})
    except (TypeError, ValueError, RecursionError) as invalid:
        return failure(f"its handler returned what cannot be published: {safe_str(invalid)}")
    status, ending = terminal_fields(None)
    return Outcome(status, {**ending, **(result or {})} if fields else ending)


def failure(error: str) -> Outcome:
    """Return the outcome of a task that has failed: there is no further attempt."""
    return Outcome(FAILED, {"error": error, "completed_at": utc_now_iso()})


def cancellation() -> Outcome:
    """Return the outcome of a task that was cancelled."""
    return Outcome(*terminal_fields(TaskCancelled()))
