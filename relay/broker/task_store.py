"""The tasks in Redis: their states one by one and as a list, their heartbeats, and which are silent.

`relay.broker.task_list` makes the pages of the list.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import msgspec
import structlog
from relay_wire import cancellation, keys, publications, retries
from relay_wire.channels import TASK_PREFIX, TASK_UPDATE
from relay_wire.creation import owner_of
from relay_wire.publications import Retention, ScriptCall
from relay_wire.scripts import Script

from relay.broker import script_calls
from relay.broker.contract import RunCalls
from relay.broker.task_indexes import IndexEntry
from relay.broker.task_list import Page, Task, TaskList, read_task, run_all, state_call
from relay.core.errors import BrokerError, BrokerRefused
from relay.core.task_filter import EVERY_TASK, TaskFilter

_log = structlog.get_logger("relay.tasks")

#: Stalled tasks marked in one round, of each bucket.
_MARK_AT_ONCE = 50

#: A relay that holds the lock longer than it lasts must not take it from the next one.
LOCK = Script.of(
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end "
    "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0"
)
#: All ages are by Redis' clock. Scores that are infinite are none of Relay's.
_NOW = "local clock = redis.call('TIME') local now = clock[1] * 1000 + math.floor(clock[2] / 1000) "
_SILENT = Script.of(
    _NOW + "local found = {} for i, key in ipairs(KEYS) do "
    "found[i] = redis.pcall('ZRANGEBYSCORE', key, '(-inf', now - ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2]) end "
    "return found"
)
#: Of the keys of some buckets, returns the places of the buckets that `_FORGET` would change, or could not.
_OUTDATED = Script.of(
    _NOW + "local found = {} "
    "local function count(...) local n = redis.pcall(...) return type(n) == 'number' and n or 1 end "
    "for i = 1, #KEYS, 3 do local listed, outdated = redis.pcall('ZCARD', KEYS[i]), false "
    "for place = i, i + 1 do outdated = outdated or count('ZCOUNT', KEYS[place], '-inf', now - ARGV[1]) > 0 "
    "or count('ZCOUNT', KEYS[place], '+inf', '+inf') > 0 or count('ZCARD', KEYS[place]) > tonumber(ARGV[2]) end "
    "if outdated or redis.pcall('ZCARD', KEYS[i + 2]) ~= listed then found[#found + 1] = (i - 1) / 3 end end "
    "return found"
)
_FORGET = Script.of(
    _NOW + "for i = 1, 2 do "
    "redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now - ARGV[1]) redis.call('ZREMRANGEBYSCORE', KEYS[i], '+inf', '+inf') "
    "redis.call('ZREMRANGEBYRANK', KEYS[i], 0, ARGV[2]) end "
    # The names follow: those of forgotten tasks go, and those of tasks that an older publisher has listed come.
    "local listed, named = redis.call('ZCARD', KEYS[1]), redis.pcall('ZCARD', KEYS[3]) "
    "if type(named) ~= 'number' or named == listed then return end "
    "redis.call('DEL', KEYS[3]) "
    "for first = 0, listed - 1, 1000 do local names = {} "
    "for i, id in ipairs(redis.call('ZRANGE', KEYS[1], first, first + 999)) do names[2 * i - 1] = 0 names[2 * i] = id end "
    "redis.call('ZADD', KEYS[3], unpack(names)) end"
)
_OWNER = Script.of("return { redis.call('EXISTS', KEYS[2]), redis.call('HGET', KEYS[1], 'owner') }")
_COUNT = Script.of("return { redis.call('ZCARD', KEYS[1]), redis.call('ZCARD', KEYS[2]) }")
_REMOVE = Script.of("return redis.call('ZREM', KEYS[1], ARGV[1])")

_BUCKETS = range(keys.BUCKETS)


def _indexes(bucket: int) -> list[str]:
    return [keys.tasks(bucket), keys.running(bucket), keys.names(bucket)]


def _groups(*, sharded: bool) -> list[list[int]]:
    """Return the buckets that one call may be about."""
    return [[bucket] for bucket in _BUCKETS] if sharded else [list(_BUCKETS)]


class TaskStore:
    """The tasks in Redis.

    All methods raise BrokerUnavailable and BrokerRefused, within the deadline of a call; those that serve clients raise
    BrokerBusy when too many are served.
    """

    def __init__(
        self,
        run_calls: RunCalls,
        run_periodic_calls: RunCalls,
        run_client_calls: RunCalls,
        retention: Retention,
        max_tasks: int,
        *,
        sharded: bool,
    ) -> None:
        """Make the store.

        Args:
            run_calls: Runs scripts for the relay itself.
            run_periodic_calls: Runs those that are run again and again.
            run_client_calls: Runs scripts for clients.
            retention: How much is kept, and for how long.
            max_tasks: Tasks listed; of more, the least recently active are left out.
            sharded: Whether the server is a cluster.
        """
        self._run_calls = run_calls
        self._run_periodic_calls = run_periodic_calls
        self._run_client_calls = run_client_calls
        self._retention = retention
        self._max_tasks = max_tasks
        self._sharded = sharded
        self._groups = _groups(sharded=sharded)
        self._list = TaskList(run_client_calls)

    # For clients.

    async def get(self, task_id: str) -> Task | None:
        """Return one task, or None when there is none, or no more."""
        (answer,) = await run_all(self._run_client_calls, [state_call(task_id)])
        task = read_task(task_id, None, answer)
        if isinstance(task, BrokerError):
            raise task
        return task

    async def heartbeat(self, task_id: str) -> bool:
        """Note that a task is active. If it was marked as stalled, its watchers see that it is no longer.

        Returns:
            False when there is no such task.
        """
        return await self._change(publications.heartbeat_call(task_id, self._retention, sharded=self._sharded))

    async def request_cancel(self, task_id: str, reason: str) -> str:
        """Request a task's end: its worker is notified, or finds the request when it begins. May be repeated.

        Returns:
            What that came to, see `relay_wire.cancellation`.
        """
        (answer,) = await run_all(self._run_client_calls, [cancellation.cancel_call(task_id, reason)])
        try:
            return cancellation.read_outcome(answer)
        except (ValueError, TypeError) as error:
            raise BrokerRefused(f"Redis gave an answer that cannot be read: {error}") from error

    async def retry(self, task_id: str) -> str:
        """Put a task that has failed or was cancelled back into the queue of its kind, and publish that it waits.

        Returns:
            What that came to, see `relay_wire.retries`.
        """
        (kind,) = await run_all(self._run_client_calls, [retries.kind_call(task_id)])
        if not isinstance(kind, bytes):
            return retries.NOT_KEPT
        token = uuid4().hex
        (answer,) = await run_all(self._run_client_calls, [retries.retry_call(task_id, kind.decode(), token)])
        try:
            outcome, info = retries.read_retry(answer)
        except (ValueError, TypeError) as error:
            raise BrokerRefused(f"what was kept of a task cannot be read: {error}") from error
        if outcome == retries.QUEUED:
            # It runs again from here on: if this fails, the worker that takes it publishes the same.
            published = script_calls.publish_call(
                TASK_PREFIX + task_id,
                TASK_UPDATE,
                msgspec.json.encode(info),
                self._retention,
                idempotency_key=retries.update_key(task_id, token),
                sharded=self._sharded,
            )
            with suppress(BrokerError):
                await run_all(self._run_client_calls, [published])
        return outcome

    async def delete(self, task_id: str) -> bool:
        """Delete a task: its state and its history. Its watchers are sent a last update with ``"deleted": true``.

        Returns:
            False when there is no such task.
        """
        return await self._change(publications.delete_call(task_id, self._retention, sharded=self._sharded))

    async def _change(self, call: ScriptCall) -> bool:
        """Run a call that changes one task. Returns False when there is no such task."""
        (answer,) = await run_all(self._run_client_calls, [call])
        result = script_calls.read_result(answer)
        if isinstance(result, BrokerRefused):
            raise result
        return not result.is_duplicate

    async def owners(self, task_ids: Sequence[str]) -> dict[str, frozenset[str] | None]:
        """Return who owns each of some tasks, in one round trip; None for those that do not exist."""
        return {
            task_id: owner if exists else None for task_id, (exists, owner) in (await self._owners(task_ids)).items()
        }

    async def last_owners(self, task_ids: Sequence[str]) -> dict[str, frozenset[str]]:
        """Return who may read each of some tasks by owning it, in one round trip; empty for those that never existed.

        The history of a task outlives its state, and belongs to its last owner.
        """
        return {task_id: owner for task_id, (_, owner) in (await self._owners(task_ids)).items()}

    async def _owners(self, task_ids: Sequence[str]) -> dict[str, tuple[bool, frozenset[str]]]:
        """Return whether each task exists, and its last owner."""
        channels = [TASK_PREFIX + task_id for task_id in task_ids]
        calls = [ScriptCall(_OWNER, [keys.meta(channel), keys.state(channel)], []) for channel in channels]
        answers = await run_all(self._run_client_calls, calls)
        try:
            return {
                task_id: (bool(exists), owner_of(owner))
                for task_id, (exists, owner) in zip(task_ids, answers, strict=True)
            }
        except (ValueError, TypeError) as error:
            raise BrokerRefused(f"the owner of a task cannot be read: {error}") from error

    async def page(self, limit: int, after: IndexEntry | None, wanted: TaskFilter = EVERY_TASK) -> Page:
        """Return tasks, the most recently active first; see `relay.broker.task_list.TaskList.page`."""
        return await self._list.page(limit, after, wanted)

    async def counts(self) -> tuple[int, int]:
        """Return how many tasks are listed, and how many of them are in progress and not stalled."""
        calls = [ScriptCall(_COUNT, [keys.tasks(bucket), keys.running(bucket)], []) for bucket in _BUCKETS]
        answers = await run_all(self._run_client_calls, calls)
        try:
            return sum(known for known, _ in answers), sum(running for _, running in answers)
        except (ValueError, TypeError) as error:
            raise BrokerRefused(f"the indexes of tasks cannot be read: {error}") from error

    # For the relay that supervises tasks.

    async def lock(self, token: str, seconds: float) -> bool:
        """Become, or stay, the one relay that supervises tasks.

        Args:
            token: Names this relay.
            seconds: How long the lock lasts.
        """
        call = ScriptCall(LOCK, [keys.SUPERVISOR], [token, int(seconds * 1000)])
        (answer,) = await run_all(self._run_periodic_calls, [call])
        return bool(answer)

    async def mark_stalled(self, silent_for: float) -> int:
        """Mark tasks in progress that have been silent for some seconds. Returns how many were marked.

        A task that is active meanwhile is not marked, even if other relays mark at the same time: each mark holds only if the
        last activity is the one that was seen here.
        """
        values = [int(silent_for * 1000), _MARK_AT_ONCE]
        silent = await self._run_periodic_calls(
            [ScriptCall(_SILENT, [keys.running(bucket) for bucket in group], values) for group in self._groups]
        )
        calls = []
        for bucket, answer in self._by_bucket(silent):
            if not isinstance(answer, list):
                continue  # one node of a cluster is away, or somebody else has written to the key
            for member, score in zip(answer[::2], answer[1::2], strict=False):
                try:
                    call = script_calls.mark_stalled_call(
                        member.decode(), score.decode(), self._retention, sharded=self._sharded
                    )
                except (UnicodeDecodeError, AttributeError):
                    _log.error("index of running tasks holds what is no task id, removed", bucket=bucket)
                    call = ScriptCall(_REMOVE, [keys.running(bucket)], [member])
                calls.append(call)
        if not calls:
            return 0
        results = [
            script_calls.read_result(answer)
            for call, answer in zip(calls, await self._run_calls(calls), strict=True)
            if call.script is not _REMOVE and not isinstance(answer, BrokerError)
        ]
        return sum(not isinstance(result, BrokerRefused) and not result.is_duplicate for result in results)

    async def forget_old(self) -> None:
        """Drop tasks whose state has expired from the indexes, and the least recently active of too many."""
        limit = max(1, self._max_tasks // keys.BUCKETS)
        ttl_ms = self._retention.task_state_ttl * 1000
        looks = [
            ScriptCall(_OUTDATED, [name for bucket in group for name in _indexes(bucket)], [ttl_ms, limit])
            for group in self._groups
        ]
        outdated = [
            group[place]
            for group, places in zip(self._groups, await run_all(self._run_periodic_calls, looks), strict=True)
            for place in places
        ]
        if outdated:
            await run_all(
                self._run_calls, [ScriptCall(_FORGET, _indexes(bucket), [ttl_ms, -limit - 1]) for bucket in outdated]
            )

    def _by_bucket(self, answers: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Return each bucket with its part of the answers to calls that are each about a group of buckets."""
        for group, answer in zip(self._groups, answers, strict=True):
            if isinstance(answer, list) and len(answer) == len(group):
                yield from zip(group, answer, strict=True)
