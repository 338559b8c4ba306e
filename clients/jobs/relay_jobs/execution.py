"""The execution of one entry of the queue by a worker: from its claim to the task's end."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any

from relay_client.aio.publisher import Publisher
from relay_client.aio.reporter import TaskReporter
from relay_client.cancellation.aio import CancelListener
from relay_client.errors import DeliveryRefused, NotDelivered, PublisherClosed
from relay_client.progress.outcome import error_text
from relay_client.publishing.call import Call
from relay_wire.channels import MAX_NAME_LENGTH
from relay_wire.retries import FIELD, update_key
from relay_wire.statuses import CANCELLED, FAILED, TERMINAL

from relay_jobs import operations, queue
from relay_jobs.attempt import Attempt, Outcome, Stop, cancellation, failure
from relay_jobs.handlers import Handler
from relay_jobs.job import BadJob, Job, decoded
from relay_jobs.queue import Claim, Entry

_log = logging.getLogger("relay_jobs.worker")

#: A task that ends so may be run again.
_RETRYABLE = frozenset({FAILED, CANCELLED})

#: Seconds before Redis is asked again for what must be done.
_RETRY_SECONDS = 0.5


class Executor:
    """Executes entries of the queue, for one run of a worker.

    Attributes:
        attempts: The attempts that run, by their owners' names.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        worker_name: str,
        consumer: str,
        publisher: Publisher,
        cancel_listener: CancelListener,
        group: asyncio.TaskGroup,
    ) -> None:
        """Make an executor.

        Args:
            handlers: The handler of each kind.
            worker_name: The worker's name, as watchers see it.
            consumer: The run's unique name in Redis.
            publisher: Reaches Redis.
            cancel_listener: Receives requests to cancel the tasks that run.
            group: In which handlers run.
        """
        self._handlers = handlers
        self._worker_name = worker_name
        self._consumer = consumer
        self._publisher = publisher
        self._cancel_listener = cancel_listener
        self._group = group
        self.reporter = TaskReporter(publisher)
        self.attempts: dict[str, Attempt] = {}
        #: What begins from now on is handed over at once.
        self.is_handing_over = False

    async def execute(self, entry: Entry) -> None:
        """Do what an entry asks for. Never raises for what concerns this entry alone."""
        try:
            await self._execute(entry)
        except NotDelivered as error:
            _log.warning("task %s waits until its lease has run out: %s", entry.task_id, error)
        except Exception as error:  # noqa: BLE001 - one task, whatever it is, must end neither others nor the next worker
            _log.exception("task %s cannot be executed", entry.task_id)
            await self._give_up(entry, error)

    async def release(self, entry: Entry) -> None:
        """Give an entry back that came when the worker was to end already."""
        try:
            await self.deliver([queue.release(entry, self._consumer)])
        except NotDelivered as error:
            _log.warning("task %s waits until its lease has run out: %s", entry.task_id, error)

    async def deliver(self, calls: Sequence[Call]) -> None:
        """Have Redis execute calls. Raises NotDelivered."""
        await self._publisher.sender.deliver(calls)
        for call in calls:
            call.outcome()

    async def finish(self, attempt: Attempt, outcome: Outcome) -> None:
        """Publish the outcome of an attempt, and then settle its entry in the queue.

        In this order: a worker that dies in between leaves a task that is seen to have ended.
        """
        if attempt.is_over:
            return  # it was handed over while its handler ended
        attempt.is_over = True
        entry, owner, task = attempt.entry, attempt.owner, attempt.task
        outcome = _with_retryable(outcome)
        if attempt.stopped is Stop.LOST or not await self.is_ours(attempt):
            attempt.is_settled = True
            return
        try:
            await self.reporter.end(task, outcome.status, outcome.fields)
        except NotDelivered:
            await self._publish(task.id, outcome, f"end:{owner}")
        except (TypeError, ValueError) as invalid:  # together its fields are too many, or too long
            outcome = _with_retryable(failure(f"its outcome cannot be published: {error_text(invalid)}"))
            await self._publish(task.id, outcome, f"end:{owner}")
        if task.failure is not None:
            _log.error("task %s: a report was not published: %s", task.id, task.failure)
        if not await self._settle(entry, owner, outcome) and await self._is_missing(attempt):
            # It was published that it waits, and it does not.
            lost = failure("Redis has lost what this task was to do: create it again")
            await self._publish(task.id, lost, f"lost:{owner}")
        attempt.is_settled = True

    async def is_ours(self, attempt: Attempt) -> bool:
        """Return whether no other worker has taken the task over, or ended it, while this one was frozen."""
        kept = await self._retry_until_acked(lambda: [queue.keep(attempt.entry, self._consumer, attempt.owner)])
        if kept == "missing":
            return await self._retry_until_acked(lambda: [operations.status_call(attempt.task.id)]) not in TERMINAL
        return bool(kept != "lost")

    async def _is_missing(self, attempt: Attempt) -> bool:
        keep = await self._retry_until_acked(lambda: [queue.keep(attempt.entry, self._consumer, attempt.owner)])
        return bool(keep == "missing")

    async def _settle(self, entry: Entry, owner: str, outcome: Outcome) -> bool:
        """Settle an entry in the queue; False if it should be there still, and is not."""
        if outcome.is_released:
            return bool(await self._retry_until_acked(lambda: [queue.release(entry, self._consumer, owner)]))
        if outcome.retry_in is not None:
            pause = outcome.retry_in
            return bool(await self._retry_until_acked(lambda: [queue.retry(entry, owner, pause)]))
        await self._finish_entry(entry, owner, outcome.status)
        return True

    async def _finish_entry(self, entry: Entry, owner: str, status: str) -> None:
        """Remove a task that has ended. The job of one that can be run again is kept for as long as its state."""
        keep = self._publisher.updates.retention.terminal_state_ttl if status in _RETRYABLE else 0
        await self._retry_until_acked(lambda: [queue.finish(entry, owner, keep_seconds=keep)])

    async def _retry_until_acked(self, make: Callable[[], Sequence[Call]]) -> Any:
        """Return the outcome of the last of some calls, however long Redis is away. Raises NotDelivered if it refuses them."""
        while True:
            calls = make()
            try:
                await self.deliver(calls)
            except (DeliveryRefused, PublisherClosed):
                raise
            except NotDelivered as error:
                _log.warning("Redis did not take a report, trying again: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return calls[-1].outcome()

    async def _give_up(self, entry: Entry, error: Exception) -> None:
        """End a task over which the worker itself has failed."""
        outcome = failure(f"the worker cannot execute it: {error_text(error)}")
        try:
            await self._publish(entry.task_id or "", outcome, f"worker-failed:{entry.task_id}:{entry.entry_id}")
            await self._retry_until_acked(lambda: [queue.finish(entry)])
        except Exception:  # noqa: BLE001 - as in `execute`; the lease is left to run out
            _log.exception("task %s cannot be ended either", entry.task_id)

    async def _execute(self, entry: Entry) -> None:
        name = entry.task_id
        if name is None or len(name) > MAX_NAME_LENGTH:
            _log.error("entry %s of %r is no task: removed", entry.entry_id, entry.kind)
            await self._retry_until_acked(lambda: [queue.finish(entry)])
            return
        owner = token_hex(8)
        claiming, status_call = queue.claim(entry, self._consumer, owner), operations.status_call(name)
        requested_call = operations.requested_call(name)
        await self.deliver([status_call, requested_call, claiming])
        claim, status = claiming.outcome(), status_call.outcome()
        if claim.action == "gone":
            return
        if status in TERMINAL and not claim.is_again:
            await self._finish_entry(entry, owner, status)
            return
        try:
            job, handler = self._job(entry, name, claim)
        except BadJob as error:
            await self._end(entry, owner, failure(str(error)), f"poison:{name}:{entry.entry_id}")
            return
        if claim.is_again:
            await self._announce_again(entry, job, claim.token, has_ended=status in TERMINAL)
            # What was requested of the former run does not concern this one.
            requested_call = operations.requested_call(name)
            await self.deliver([requested_call])
        if claim.action == "cancelled" or requested_call.outcome():
            await self._end(
                entry, owner, _with_retryable(cancellation()), operations.cancellation_key(name, claim.token)
            )
        elif claim.attempt > handler.attempts:
            died = failure(f"given up: {claim.attempt - 1} attempts did not come to an end, because their workers died")
            await self._end(entry, owner, _with_retryable(died), f"end:{owner}")
        else:
            await self._attempt(entry, owner, claim.attempt, job, handler, is_announced=status is not None)

    def _job(self, entry: Entry, name: str, claim: Claim) -> tuple[Job, Handler]:
        if claim.action == "missing":
            raise BadJob("Redis does not know what this task is to do")
        job = decoded(name, claim.job)
        if job.kind != entry.kind or job.kind not in self._handlers:
            raise BadJob(f"no handler for kind {job.kind!r} here, in the queue of {entry.kind!r}")
        return job, self._handlers[job.kind]

    async def _end(self, entry: Entry, owner: str, outcome: Outcome, key: str) -> None:
        """End a task that is not tried, or not any more."""
        _log.warning("task %s: %s %s", entry.task_id, outcome.status, outcome.reason)
        await self._publish(entry.task_id or "", outcome, key)
        await self._finish_entry(entry, owner, outcome.status if FIELD in outcome.fields else "")

    async def _announce_again(self, entry: Entry, job: Job, token: str, *, has_ended: bool) -> None:
        """Publish that an ended task has begun again, unless who requested it has."""
        if has_ended:
            key = update_key(job.task_id, token)
            await self._retry_until_acked(lambda: self._publisher.updates.task_update(job.task_id, job.info, key=key))
        await self._retry_until_acked(lambda: [queue.announced_again(entry, token)])

    async def _publish(self, name: str, outcome: Outcome, key: str) -> None:
        update = {"status": outcome.status, **outcome.fields}
        await self._retry_until_acked(lambda: self._publisher.updates.task_update(name, update, key=key))

    async def _attempt(
        self, entry: Entry, owner: str, number: int, job: Job, handler: Handler, *, is_announced: bool
    ) -> None:
        if not is_announced:  # its creator died before it did
            key = operations.announcement_key(job.task_id, str(job.info.get("created_at")))
            await self.deliver(self._publisher.updates.created(job.task_id, job.info, key, job.options))
        message = f"Attempt {number} of {handler.attempts}" if number > 1 else "Started"
        info = {"progress": 0, "message": message, "worker": self._worker_name, "attempt": number}
        task = await self.reporter.begin(job.task_id, info, announce=False)
        attempt = Attempt(entry, owner, number, handler, task)
        self.attempts[owner] = attempt
        try:
            if self.is_handing_over:
                attempt.stop(Stop.HANDOVER)
            _log.info("task %s (%s): attempt %d", task.id, job.kind, number)
            with self._cancel_listener.watch(task.id, lambda _: attempt.stop(Stop.CANCELLED)):
                outcome = await attempt.run(self._group, job.params)
            await self.finish(attempt, outcome)
            _log.info("task %s (%s): %s %s", task.id, job.kind, outcome.status, outcome.reason)
        finally:
            del self.attempts[owner]
            self.reporter.abandon(task)


def _with_retryable(outcome: Outcome) -> Outcome:
    """Return an outcome that shows watchers whether the task may be run again."""
    if outcome.status not in _RETRYABLE:
        return outcome
    return replace(outcome, fields={**outcome.fields, FIELD: True})
