"""One run of a worker: takes tasks while it may, keeps its claims alive, and ends without leaving anything behind.

The tasks of asyncio: shift > {keeper, one per entry > its handler}; feeding is the shift's own.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from secrets import token_hex
from typing import Any

from relay_client.aio.publisher import Publisher
from relay_client.aio.reporter import TaskReporter
from relay_client.errors import DeliveryRefused, NotDelivered, PublisherClosed
from relay_client.progress.task import TaskCancelled, error_text, terminal_fields
from relay_client.publishing.call import Call
from relay_wire.channels import MAX_NAME_LENGTH
from relay_wire.statuses import PENDING, TERMINAL

from relay_jobs import operations, queue
from relay_jobs.attempt import HANDED_OVER, Attempt, Outcome, Stop, failure
from relay_jobs.fetcher import Fetcher
from relay_jobs.handlers import Handler
from relay_jobs.job import BadJob, Job, decoded
from relay_jobs.queue import Claim, Entry
from relay_jobs.settings import WorkerSettings

_log = logging.getLogger("relay_client.worker")

#: Seconds that handlers have to end when their tasks are handed over, and for telling Redis.
_LAST_SECONDS = 3.0

#: Seconds before Redis is asked again for what must be done.
_PAUSE = 0.5


class WorkerRun:
    """Runs once."""

    def __init__(self, handlers: Mapping[str, Handler], settings: WorkerSettings) -> None:
        self._handlers = handlers
        self._settings = settings
        self._consumer = f"{settings.consumer}:{token_hex(4)}"
        # All claims are renewed at once, and what is due of all kinds is handed out at once.
        most = max(1000, 8 * settings.concurrency + 200 * len(handlers))
        self._publisher = Publisher(settings.redis_url, timeout=settings.timeout, max_waiting=most)
        self._reporter = TaskReporter(self._publisher)
        self._fetcher = Fetcher(tuple(handlers), self._consumer, self._publisher.sender, settings)
        self._busy: set[asyncio.Task[None]] = set()
        self._attempts: dict[str, Attempt] = {}
        self._changed = asyncio.Event()  # a place is free, or the shift is to end
        self._is_draining = False
        self._is_over = False  # what runs is handed over
        self._group = asyncio.TaskGroup()

    def drain(self) -> None:
        """Take no more tasks, and end."""
        self._is_draining = True
        self._changed.set()

    async def run(self) -> None:
        """Until drained, or cancelled."""
        async with self._publisher, self._reporter:
            try:
                await self._open()
                async with self._group as group:
                    keeper = group.create_task(self._keep_claims())
                    try:
                        await self._take_tasks(group)
                        await self._end_tasks()
                    finally:
                        keeper.cancel()
            finally:
                await self._fetcher.close()

    async def _open(self) -> None:
        while not self._is_draining:
            try:
                await self._fetcher.open()
            except DeliveryRefused:
                raise
            except NotDelivered as error:
                _log.warning("waiting for Redis: %s", error)
            else:
                return

    # Taking

    async def _take_tasks(self, group: asyncio.TaskGroup) -> None:
        _log.info(
            "%s takes tasks: %s; %d at once", self._consumer, ", ".join(self._handlers), self._settings.concurrency
        )
        while not self._is_draining:
            free = self._settings.concurrency - len(self._busy)
            if free <= 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            for entry in await self._fetcher.next(free):
                work = group.create_task(self._release(entry) if self._is_draining else self._work(entry))
                self._busy.add(work)
                work.add_done_callback(self._is_done)

    def _is_done(self, work: asyncio.Task[None]) -> None:
        self._busy.discard(work)
        self._changed.set()

    async def _release(self, entry: Entry) -> None:
        """It came when the shift had ended already."""
        try:
            await self._deliver([queue.release(entry, self._consumer)])
        except NotDelivered as error:
            _log.warning("task %s waits for the lease: %s", entry.task_id, error)

    # Ending

    async def _end_tasks(self) -> None:
        if self._busy:
            grace = self._settings.grace
            _log.info("draining: %d tasks have %g s", len(self._busy), grace)
            await asyncio.wait(self._busy, timeout=grace)
        self._is_over = True
        for attempt in list(self._attempts.values()):
            attempt.stop(Stop.HANDOVER)
        if self._busy:
            await asyncio.wait(self._busy, timeout=_LAST_SECONDS)
        # What has not ended by now does not listen, or Redis does not.
        left = [attempt for attempt in self._attempts.values() if not attempt.is_over]
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                for attempt in left:
                    await self._finish(attempt, HANDED_OVER)
        except (TimeoutError, NotDelivered) as error:
            _log.warning("Redis is not told: %s", error or "it is away")
        untold = sum(not attempt.is_told for attempt in self._attempts.values())
        if untold:
            _log.warning("%d tasks wait for their lease to run out", untold)
        for work in self._busy:
            work.cancel()

    # Keeping

    async def _keep_claims(self) -> None:
        while True:
            await asyncio.sleep(self._settings.beat)
            if self._attempts:
                try:
                    await self._keep(list(self._attempts.values()))
                except NotDelivered as error:
                    _log.warning("claims are not renewed: %s", error)

    async def _keep(self, attempts: Sequence[Attempt]) -> None:
        """Renew the claims, and hear what others want of these tasks."""
        calls = [queue.keep(attempt.entry, self._consumer, attempt.owner) for attempt in attempts]
        await self._deliver(calls)
        for attempt, call in zip(attempts, calls, strict=True):
            kept = call.outcome()
            if kept == "cancelled":
                attempt.stop(Stop.CANCELLED)
            elif kept != "kept" and not attempt.is_over and not await self._is_ours(attempt):
                _log.warning("task %s: another worker has it", attempt.task.id)
                attempt.stop(Stop.LOST)

    async def _deliver(self, calls: Sequence[Call]) -> None:
        await self._publisher.sender.deliver(calls)
        for call in calls:
            call.outcome()

    async def _retry_until_acked(self, make: Callable[[], Sequence[Call]]) -> Any:
        """The outcome of the last of some calls, however long Redis is away. Raises NotDelivered when it refuses them."""
        while True:
            calls = make()
            try:
                await self._deliver(calls)
            except (DeliveryRefused, PublisherClosed):
                raise
            except NotDelivered as error:
                _log.warning("tried again until Redis takes it: %s", error)
                await asyncio.sleep(_PAUSE)
            else:
                return calls[-1].outcome()

    # Working

    async def _work(self, entry: Entry) -> None:
        try:
            await self._carry_out(entry)
        except NotDelivered as error:
            _log.warning("task %s is left until its lease has run out: %s", entry.task_id, error)
        except Exception as error:  # noqa: BLE001 - one task, whatever it is, must not end the others', nor the next worker
            _log.exception("task %s cannot be carried out", entry.task_id)
            await self._give_up(entry, error)

    async def _give_up(self, entry: Entry, error: Exception) -> None:
        """End a task that made the worker itself stumble."""
        outcome = failure(f"the worker cannot carry it out: {error_text(error)}")
        try:
            await self._tell(entry.task_id or "", outcome, f"stumbled:{entry.task_id}:{entry.entry_id}")
            await self._retry_until_acked(lambda: [queue.finish(entry)])
        except Exception:  # noqa: BLE001 - as above; the lease is left to run out
            _log.exception("task %s cannot be ended either", entry.task_id)

    async def _carry_out(self, entry: Entry) -> None:
        name = entry.task_id
        if name is None or len(name) > MAX_NAME_LENGTH:
            _log.error("entry %s of %r is no task: removed", entry.entry_id, entry.kind)
            await self._retry_until_acked(lambda: [queue.finish(entry)])
            return
        owner = token_hex(8)
        asked, known = queue.begin(entry, self._consumer, owner), operations.status_call(name)
        await self._deliver([known, asked])
        claim, status = asked.outcome(), known.outcome()
        if claim.outcome == "gone":
            return
        if status in TERMINAL:
            await self._retry_until_acked(lambda: [queue.finish(entry, owner)])
            return
        try:
            job, handler = self._job(entry, name, claim)
        except BadJob as error:
            await self._end(entry, owner, failure(str(error)), f"poison:{name}:{entry.entry_id}")
            return
        if claim.outcome == "cancelled":
            await self._end(entry, owner, Outcome(*terminal_fields(TaskCancelled())), operations.cancellation_key(name))
        elif claim.attempt > handler.attempts:
            died = failure(f"given up: {claim.attempt - 1} attempts did not come to an end, for their workers died")
            await self._end(entry, owner, died, f"end:{owner}")
        else:
            await self._attempt(entry, owner, claim.attempt, job, handler, is_announced=status is not None)

    def _job(self, entry: Entry, name: str, claim: Claim) -> tuple[Job, Handler]:
        if claim.outcome == "missing":
            raise BadJob("Redis knows nothing of what this task is to do")
        job = decoded(name, claim.job)
        if job.kind != entry.kind or job.kind not in self._handlers:
            raise BadJob(f"no handler for kind {job.kind!r} here, in the queue of {entry.kind!r}")
        return job, self._handlers[job.kind]

    async def _end(self, entry: Entry, owner: str, outcome: Outcome, key: str) -> None:
        """End a task that is not tried, or not any more."""
        _log.warning("task %s: %s %s", entry.task_id, outcome.status, _reason(outcome))
        await self._tell(entry.task_id or "", outcome, key)
        await self._retry_until_acked(lambda: [queue.finish(entry, owner)])

    async def _tell(self, name: str, outcome: Outcome, key: str) -> None:
        update = {"status": outcome.status, **outcome.fields}
        await self._retry_until_acked(lambda: self._publisher.updates.task_update(name, update, key=key))

    async def _attempt(
        self, entry: Entry, owner: str, number: int, job: Job, handler: Handler, *, is_announced: bool
    ) -> None:
        if not is_announced:  # its creator died over it
            key = operations.announcement_key(job.task_id, str(job.info.get("created_at")))
            await self._deliver(self._publisher.updates.created(job.task_id, job.info, key=key))
        message = f"Attempt {number} of {handler.attempts}" if number > 1 else "Started"
        info = {"progress": 0, "message": message, "worker": self._settings.consumer, "attempt": number}
        task = await self._reporter.begin(job.task_id, info, announce=False)
        attempt = Attempt(entry, owner, number, handler, task)
        self._attempts[owner] = attempt
        try:
            if self._is_over:
                attempt.stop(Stop.HANDOVER)
            _log.info("task %s (%s): attempt %d", task.id, job.kind, number)
            outcome = await attempt.run(self._group, job.params)
            await self._finish(attempt, outcome)
            _log.info("task %s (%s): %s %s", task.id, job.kind, outcome.status, _reason(outcome))
        finally:
            del self._attempts[owner]
            self._reporter.abandon(task)

    async def _finish(self, attempt: Attempt, outcome: Outcome) -> None:
        """Tell its watchers, and then the queue: whoever dies in between leaves a task that is seen to have ended."""
        if attempt.is_over:
            return  # it was handed over while it came to its end
        attempt.is_over = True
        entry, owner, task = attempt.entry, attempt.owner, attempt.task
        if attempt.stopped is Stop.LOST or not await self._is_ours(attempt):
            attempt.is_told = True
            return
        try:
            await self._reporter.end(task, outcome.status, outcome.fields)
        except NotDelivered:
            await self._tell(task.id, outcome, f"end:{owner}")
        except (TypeError, ValueError) as unfit:  # together its fields are too many, or too long
            outcome = failure(f"what it came to cannot be published: {error_text(unfit)}")
            await self._tell(task.id, outcome, f"end:{owner}")
        if task.failure is not None:
            _log.error("task %s: a report was not published: %s", task.id, task.failure)
        if outcome.released:
            is_queued = await self._retry_until_acked(lambda: [queue.release(entry, self._consumer, owner)])
        elif outcome.retry_in is not None:
            pause = outcome.retry_in
            is_queued = await self._retry_until_acked(lambda: [queue.retry(entry, owner, pause)])
        else:
            await self._retry_until_acked(lambda: [queue.finish(entry, owner)])
            is_queued = True
        if (
            not is_queued
            and await self._retry_until_acked(lambda: [queue.keep(entry, self._consumer, owner)]) == "missing"
        ):
            # It was told that it waits, and it does not.
            await self._tell(
                task.id, failure("Redis has lost what this task was to do: create it again"), f"lost:{owner}"
            )
        attempt.is_told = True

    async def _is_ours(self, attempt: Attempt) -> bool:
        """Nobody else has taken it over, or ended it: we may have been frozen for longer than the lease."""
        kept = await self._retry_until_acked(lambda: [queue.keep(attempt.entry, self._consumer, attempt.owner)])
        if kept == "missing":
            return await self._retry_until_acked(lambda: [operations.status_call(attempt.task.id)]) not in TERMINAL
        return bool(kept != "lost")


def _reason(outcome: Outcome) -> str:
    return str(
        outcome.fields.get("error") or (outcome.fields.get("message") if outcome.status == PENDING else "") or ""
    )
