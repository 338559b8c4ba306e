"""The connection that receives requests to cancel tasks, on asyncio: it always reconnects, and misses none.

receive  one subscription, to one channel for all tasks
read     the flags of tasks that were added, and of all after each new connection
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis, RedisCluster
from relay_wire import cancellation, keys, redis_urls
from relay_wire.channels import TASK_PREFIX
from relay_wire.creation import PARENT_FIELD
from relay_wire.publications import to_text
from relay_wire.redis_urls import RedisTarget

from relay_client.backoff import full_jitter
from relay_client.cancellation.watches import Watches
from relay_client.listening import Listener
from relay_client.publishing.asyncio_runtime import cancellation_count
from relay_client.publishing.connection import connection_options, without_retries
from relay_client.redis_errors import REDIS_FAILURES

_log = logging.getLogger("relay_client")

#: Flags read in one round trip.
_FLAGS_AT_ONCE = 200

#: Seconds between two tries to read flags: at first, and at most.
_BASE_DELAY, _MAX_DELAY = 0.05, 5.0

#: Seconds before a receiver that has failed begins again.
_RESTART_DELAY = 1.0


class CancelReceiver:
    """Receives requests for one event loop's watches.

    Attributes:
        watches: Add the running tasks here, and discard them when they have ended.
    """

    def __init__(self, target: RedisTarget, timeout: float) -> None:
        """Make a receiver, which does not connect before `run`.

        Args:
            target: The Redis.
            timeout: Seconds for one try of a call.
        """
        self._target = target
        self._timeout = timeout
        self._flags_due = asyncio.Event()
        self.watches = Watches(self._flags_due.set)
        self._listener = Listener(timeout, "relay-cancel", self.watches.mark_all_unread)
        self._listener.add(keys.CANCEL, self._on_message)
        self._overflows = 0

    async def run(self) -> None:
        """Receive until cancelled. No error ends it: the tasks that run go on, whatever happens to their listener."""
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._read_flags())
                    await self._listener.run(self._target)
            except* Exception as errors:  # noqa: BLE001 - of this module, of redis-py, of a wrong configuration
                _log.exception("requests to cancel tasks are not received, tried again", exc_info=errors.exceptions[0])
            if cancellation_count():  # which a group swallows that has an error as well
                raise asyncio.CancelledError
            await asyncio.sleep(_RESTART_DELAY)

    def _on_message(self, message: Any) -> None:
        request = cancellation.read_message(message)
        if request is not None:
            self.watches.request(*request)
        if self._listener.overflows != self._overflows:  # too many at once: some were dropped
            self._overflows = self._listener.overflows
            self.watches.mark_all_unread()

    async def _read_flags(self) -> None:
        failures = 0
        client = self._client()
        try:
            while True:
                await self._flags_due.wait()
                self._flags_due.clear()
                while unread := self.watches.take_unread(_FLAGS_AT_ONCE):
                    try:
                        async with asyncio.timeout(self._timeout):
                            flags = await self._flags(client, unread)
                    except (*REDIS_FAILURES, TimeoutError) as error:
                        self.watches.mark_unread(unread)
                        if not failures:
                            _log.warning("requests to cancel tasks cannot be read, tried again: %s", error)
                        await self._close(client)
                        await asyncio.sleep(full_jitter(failures, _BASE_DELAY, _MAX_DELAY))
                        client = self._client()
                        failures += 1
                    else:
                        failures = 0
                        for task_id, (reason, parent_id) in zip(unread, flags, strict=True):
                            self.watches.on_flag(task_id, reason, parent_id)
        finally:
            await self._close(client)

    async def _flags(
        self, client: Redis | RedisCluster, task_ids: Sequence[str]
    ) -> list[tuple[str | None, str | None]]:
        """Return why each task's cancellation was requested, if it was, and its parent, if it has one."""
        pipeline: Any = client.pipeline(transaction=False) if isinstance(client, Redis) else client.pipeline()
        for task_id in task_ids:
            pipeline.hmget(keys.meta(TASK_PREFIX + task_id), cancellation.FIELD, PARENT_FIELD)
        answers = await pipeline.execute()
        return [(_text(reason), _text(parent_id)) for reason, parent_id in answers]

    def _client(self) -> Redis | RedisCluster:
        options = connection_options(self._timeout, "relay-cancel-flags")
        return redis_urls.async_client(without_retries(self._target, self._timeout), **options)

    async def _close(self, client: Redis | RedisCluster) -> None:
        with suppress(*REDIS_FAILURES, TimeoutError):  # it may be broken already
            async with asyncio.timeout(self._timeout):
                await client.aclose()
                if isinstance(client, Redis):
                    await redis_urls.close_pool(client.connection_pool)


def _text(value: str | bytes | None) -> str | None:
    return None if value is None else to_text(value)
