"""Fetches a worker's entries from the queue: new tasks, those that are due again, those that dead workers have left."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from redis.asyncio import Redis, RedisCluster
from relay_client.errors import NotDelivered
from relay_client.publishing.connection import connection_options, without_retries
from relay_client.publishing.queue import retry_delay
from relay_client.publishing.sender import Sender
from relay_client.redis_errors import REDIS_FAILURES
from relay_wire import redis_urls
from relay_wire.publications import to_text
from relay_wire.retries import queue_key

from relay_jobs import queue
from relay_jobs.queue import GROUP, Entry
from relay_jobs.settings import WorkerSettings

_log = logging.getLogger("relay_jobs.worker")

#: Due tasks that one round hands to the workers, of each kind.
_MAX_DUE = 100

#: Seconds between two removals of workers that are long gone.
_FORGET_SECONDS = 600.0


class Fetcher:
    """Entries for one run of a worker. Its connection waits for new ones; everything else goes through the sender."""

    def __init__(self, kinds: Sequence[str], consumer: str, sender: Sender, settings: WorkerSettings) -> None:
        self._kinds = tuple(kinds)
        self._consumer = consumer
        self._sender = sender
        self._lease_ms = int(settings.lease * 1000)
        self._heartbeat = settings.heartbeat
        self._deadline = settings.heartbeat + settings.timeout
        target = without_retries(redis_urls.parse(settings.redis_url))
        options = connection_options(self._deadline, "relay-worker")
        self._client: Redis | RedisCluster = redis_urls.async_client(target, **options)
        self._cursors = dict.fromkeys(kinds, "0-0")
        self._failures = 0
        self._next_poll = 0.0
        self._next_claim = 0.0
        self._next_forget = 0.0

    async def open(self) -> None:
        """Create the queues. Raises NotDelivered."""
        await self._deliver([queue.open_queues(self._kinds)])
        # Redis may have been away until now, and all claims look old: workers that live renew theirs first.
        self._next_claim = monotonic() + 3 * self._heartbeat

    async def next(self, limit: int) -> list[Entry]:
        """Return at most `limit` entries, first those that other workers have left.

        None after a second or so without any, and when Redis is away.
        """
        try:
            left = await self._look(limit) if monotonic() >= self._next_poll else []
            found = left or await self._take(limit) or await self._wait(limit)
        except (*REDIS_FAILURES, NotDelivered, TimeoutError) as error:
            await self._note_failure(error)
            return []
        if self._failures:
            _log.info("Redis is back")
            self._failures = 0
        return found

    async def _look(self, limit: int) -> list[Entry]:
        """Hand what is due to the workers, and claim what other workers have left."""
        due = [queue.due(kind, _MAX_DUE) for kind in self._kinds]
        await self._deliver(due)
        ready = [
            queue.ready(task_id, kind, if_due=True)
            for kind, call in zip(self._kinds, due, strict=True)
            for task_id in call.outcome()
        ]
        if ready:
            await self._deliver(ready)
        found: list[Entry] = []
        for kind in self._kinds:
            if len(found) < limit and monotonic() >= self._next_claim:
                call = queue.take_over(kind, self._consumer, self._lease_ms, self._cursors[kind], limit - len(found))
                await self._deliver([call])
                self._cursors[kind], entries = call.outcome()
                found += entries
        if found:
            _log.info("taken over from other workers: %s", ", ".join(str(entry.task_id) for entry in found))
        if monotonic() >= self._next_forget:
            await self._deliver([queue.forget(kind) for kind in self._kinds])
            self._next_forget = monotonic() + _FORGET_SECONDS
        self._next_poll = monotonic() + self._heartbeat
        return found

    async def _deliver(self, calls: Sequence[Any]) -> None:
        await self._sender.deliver(calls, self._deadline)
        for call in calls:
            call.outcome()

    async def _take(self, limit: int) -> list[Entry]:
        """Take new entries. Each time another kind comes first, so that none starves the others."""
        self._kinds = (*self._kinds[1:], self._kinds[0])
        call = queue.take(self._kinds, self._consumer, limit)
        await self._deliver([call])
        entries: list[Entry] = call.outcome()
        return entries

    async def _wait(self, limit: int) -> list[Entry]:
        """Wait for a new entry."""
        streams: Any = {queue_key(kind): ">" for kind in self._kinds}
        async with asyncio.timeout(self._deadline):
            answer: Any = await self._client.xreadgroup(
                GROUP, self._consumer, streams, count=1, block=int(self._heartbeat * 1000)
            )
        found: list[Entry] = []
        for name, raw in answer.items() if isinstance(answer, Mapping) else answer or ():
            # RESP3 has a list of lists where RESP2 has a list.
            nested = raw and isinstance(raw[0], list) and raw[0] and not isinstance(raw[0][0], bytes | str)
            found += queue.entries(queue.kind_of(to_text(name)), raw[0] if nested else raw)
        if found[limit:]:  # one of each kind, which may be too many
            await self._deliver([queue.release(entry, self._consumer) for entry in found[limit:]])
        return found[:limit]

    async def _note_failure(self, error: Exception) -> None:
        if "NOGROUP" in str(error):
            _log.warning("Redis has lost its queues; they are created again")
            try:
                await self.open()
            except NotDelivered as again:
                error = again
        elif not self._failures:
            _log.warning("no tasks from Redis for the time being: %s", error)
        self._failures += 1
        # After an outage all claims look old: workers that live renew theirs first.
        self._next_poll = monotonic() + 3 * self._heartbeat
        await asyncio.sleep(retry_delay(self._failures))

    async def close(self) -> None:
        """Remove this worker in Redis, and close its connection."""
        if not self._failures:  # while Redis is away, that may wait: `_look` removes those that are long gone
            try:
                await self._deliver([queue.forget(kind, self._consumer) for kind in self._kinds])
            except NotDelivered as error:
                _log.debug("this worker was not removed in Redis: %s", error)
        try:
            async with asyncio.timeout(self._deadline):
                await self._client.aclose()
                if isinstance(self._client, Redis):
                    await redis_urls.close_pool(self._client.connection_pool)
        except (*REDIS_FAILURES, TimeoutError) as error:
            _log.debug("its connection was broken already: %s", error)
