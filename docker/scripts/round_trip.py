"""``make test-redis``: a publish that comes back through a WebSocket, as services and browsers do it.

Two of them: a plain PUBLISH, and a durable one. Exit status 0 when both came back; else it says which step failed.
"""

import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex

import trio
from redis_place import Place, find_redis
from relay_client.subscriber import ConnectionChange, SubscriptionError
from relay_client.subscriber.trio import Updates, subscribe
from relay_place import relay_url
from relay_wire.redis_urls import parse

from relay.broker.redis import RedisService, open_redis
from relay.config import RedisSettings, Settings, load
from relay.core.errors import RelayError

#: Seconds for each step.
TIMEOUT = 5.0

REDIS_ADVICE = "Is it up, and REDIS_URL right? See docs/troubleshoot.md, 'Redis connection failed'."
RELAY_ADVICE = "Is it up? `make health-check` tells; RELAY_URL says where it is."
PLAIN_ADVICE = "Does the relay use this Redis? See docs/troubleshoot.md, 'Updates not received across services'."
DURABLE_ADVICE = "See docs/troubleshoot.md, 'No WebSocket updates'."


class StepFailed(Exception):
    """What did not work, and what to do about it."""

    def __init__(self, what: str, why: object, advice: str) -> None:
        super().__init__(f"FAILED  {what}: {why}\n        {advice}")


@asynccontextmanager
async def step(what: str, advice: str) -> AsyncIterator[list[str]]:
    """Say that the block succeeded, how long it took, and what it puts into the list. Raises StepFailed."""
    notes: list[str] = []
    started = time.perf_counter()
    try:
        with trio.fail_after(TIMEOUT):
            yield notes
    except trio.TooSlowError:
        raise StepFailed(what, "; ".join([f"not within {TIMEOUT:g} s", *notes]), advice) from None
    except (RelayError, SubscriptionError) as error:
        raise StepFailed(what, error, advice) from None
    print("  ".join([f"ok      {what}", f"{1000 * (time.perf_counter() - started):.1f} ms", *notes]))


async def heard(updates: Updates, key: str) -> None:
    """Wait for the update with this key in its data."""
    async for update in updates:
        if key in update.data:
            return


async def publish_plain(redis: RedisService, updates: Updates, task_id: str, *, is_cluster: bool) -> None:
    """As services do that know only Redis. Raises StepFailed."""
    what = "a plain PUBLISH came back"
    message = {"type": "task_update", "task_id": task_id, "data": {"plain": 1}, "timestamp": time.time()}
    async with step(what, PLAIN_ADVICE) as notes:
        listening = await redis.publish("task_updates", json.dumps(message).encode())
        if not listening and not is_cluster:  # of which it counts one node's
            raise StepFailed(what, "nobody hears task_updates on this Redis", PLAIN_ADVICE)
        notes.append(f"{listening} heard it")
        await heard(updates, "plain")


async def publish_durably(redis: RedisService, updates: Updates, task_id: str) -> None:
    """As Relay's own clients do. It ends the task, so that after RELAY_TERMINAL_STATE_TTL nothing is left of it. Raises
    StepFailed."""
    async with step("a durable publish came back", DURABLE_ADVICE) as notes:
        position = await redis.publish_task_update(task_id, {"durable": 1, "status": "completed"})
        notes.append("without a position: Redis is full" if position is None else f"as number {position.offset}")
        await heard(updates, "durable")


async def round_trip(redis: RedisService, url: str, *, is_cluster: bool) -> None:
    """Raises StepFailed."""
    async with step("Redis answers", REDIS_ADVICE):
        await redis.ping()
    task_id = f"test-redis-{token_hex(4)}"
    changes: list[ConnectionChange] = []
    async with subscribe(url, [task_id], on_connection=changes.append) as updates:
        async with step("the relay lets a WebSocket in", RELAY_ADVICE) as notes:
            try:
                await updates.established()
            except trio.Cancelled:
                notes.extend(map(str, changes[-1:]))
                raise
        await publish_plain(redis, updates, task_id, is_cluster=is_cluster)
        await publish_durably(redis, updates, task_id)


async def run(place: Place, url: str, settings: Settings, redis_settings: RedisSettings) -> StepFailed | None:
    """Returns what failed."""
    async with open_redis(place.url, settings, redis_settings) as redis:
        try:
            await round_trip(redis, url, is_cluster=parse(place.url).is_sharded)
        except StepFailed as failure:
            return failure
    return None


def main() -> int:
    """Returns the exit status."""
    try:
        settings, redis_settings = load()
        url = f"{relay_url('ws')}/ws/tasks"
    except (RelayError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    place = find_redis(redis_settings)
    print(f"Redis   {place}\nRelay   {url}", flush=True)
    failure = trio.run(run, place, url, settings, redis_settings)
    if failure is not None:
        print(failure, file=sys.stderr)
    return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main())
