"""One attempt at a task: its handler runs, may be stopped, and comes to a outcome."""

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import Any

from relay_client.encoding import encode_fields
from relay_client.progress.task import Task, TaskCancelled, error_text, safe_str, terminal_fields, utc_now_iso
from relay_wire.statuses import FAILED, PENDING

from relay_jobs.errors import TaskFailed
from relay_jobs.handlers import Handler, Params, Result
from relay_jobs.queue import Entry


class Stop(Enum):
    """Why an attempt is stopped."""

    CANCELLED = "somebody asked for it"
    LOST = "another worker has it"
    HANDOVER = "this worker ends"
    TIMEOUT = "it takes too long"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to.

    fields:   the last of this attempt, with its status
    retry_in: seconds until the next attempt; None: there is none
    released: whoever looks next is to go on with it
    """

    status: str
    fields: dict[str, Any]
    retry_in: float | None = None
    released: bool = False


class Attempt:
    """An attempt that runs. owner: its name, by which Redis knows it; number: counted from 1."""

    def __init__(self, entry: Entry, owner: str, number: int, handler: Handler, task: Task) -> None:
        self.entry = entry
        self.owner = owner
        self.task = task
        self.stopped: Stop | None = None
        #: It has come to a outcome, which is being told; and Redis has it.
        self.is_over = self.is_told = False
        self._number = number
        self._handler = handler
        self._running: asyncio.Task[tuple[Result, BaseException | None]] | None = None

    def stop(self, reason: Stop) -> None:
        """Have the handler end, unless it has; the first reason counts."""
        if self.stopped is not None or (self._running is not None and self._running.done()):
            return
        self.stopped = reason
        # A thread hears in no other way that it is to end, whatever the reason.
        self.task.request_cancel(reason.value)
        if self._running is not None and self._handler.is_async:
            self._running.cancel()

    async def run(self, group: asyncio.TaskGroup, params: Params) -> Outcome:
        """Run the handler to its end. Cancelling cancels it; a thread goes on."""
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
        """An error of a handler is an outcome, and none of the worker's."""
        try:
            return await self._handler(self.task, params), None
        except (Exception, SystemExit) as error:  # noqa: BLE001
            return None, error

    def _outcome(self, result: Result, error: BaseException | None) -> Outcome:
        if error is None:
            try:
                fields = encode_fields(result or {})
            except (TypeError, ValueError, RecursionError) as unfit:
                return failure(f"its handler returned what cannot be published: {safe_str(unfit)}")
            status, ending = terminal_fields(None)
            return Outcome(status, {**ending, **(result or {})} if fields else ending)
        if isinstance(error, asyncio.CancelledError | TaskCancelled):
            match self.stopped:
                case Stop.HANDOVER:
                    return HANDED_OVER
                case Stop.TIMEOUT:
                    error = TimeoutError(f"not done within {self._handler.timeout:g} s")
                case _ if self.stopped is Stop.CANCELLED or isinstance(error, TaskCancelled):
                    return Outcome(*terminal_fields(TaskCancelled()))
        elif self.stopped is Stop.CANCELLED:
            return Outcome(*terminal_fields(TaskCancelled()))
        if isinstance(error, TaskFailed) or self._number >= self._handler.attempts:
            return failure(safe_str(error) if isinstance(error, TaskFailed) else error_text(error))
        pause = self._handler.pause(self._number)
        # Not as ``error``: the next attempt may be a success.
        number = f"Attempt {self._number} of {self._handler.attempts}"
        message = f"{number} failed, the next is in {pause:.1f} s: {error_text(error)}"
        return Outcome(PENDING, {"message": message}, retry_in=pause)


HANDED_OVER = Outcome(PENDING, {"message": "Handed over to another worker"}, released=True)


def failure(error: str) -> Outcome:
    """There is no further attempt."""
    return Outcome(FAILED, {"error": error, "completed_at": utc_now_iso()})
