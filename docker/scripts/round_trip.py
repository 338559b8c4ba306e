"""``make test-redis``: publish to Redis, and receive the update on a WebSocket, as services and browsers do.

Publishes once plainly and once durably. Exits with status 0 if both updates arrive; otherwise prints which step failed.
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

from relay.broker.opening import open_redis
from relay.broker.service import RedisBroker
from relay.config import RedisSettings, Settings, load
from relay.core.errors import RelayError

#: Deadline of each step, in seconds.
TIMEOUT = 5.0

REDIS_ADVICE = "Is it running, and is REDIS_URL correct? See docs/troubleshoot.md, 'Redis connection failed'."
RELAY_ADVICE = "Is it running, and is RELAY_URL correct? `make health-check` shows more."
PLAIN_ADVICE = "Does the relay use this Redis? See docs/troubleshoot.md, 'Updates not received across services'."
DURABLE_ADVICE = "See docs/troubleshoot.md, 'No WebSocket updates'."


class StepFailed(Exception):
    """A step failed; the message says why and what to do."""

    def __init__(self, what: str, why: object, advice: str) -> None:
        super().__init__(f"FAILED  {what}: {why}\n        {advice}")


@asynccontextmanager
async def step(what: str, advice: str) -> AsyncIterator[list[str]]:
    """Print that the block succeeded, how long it took, and the notes that it added to the list.

    Raises:
        StepFailed: the block failed or took too long.
    """
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


async def wait_for(updates: Updates, key: str) -> None:
    """Wait for an update that has this key in its data."""
    async for update in updates:
        if key in update.data:
            return


async def publish_plain(redis: RedisBroker, updates: Updates, task_id: str, *, is_cluster: bool) -> None:
    """Publish with a plain PUBLISH, and wait for the update.

    Raises:
        StepFailed: the update did not arrive.
    """
    what = "a plain PUBLISH came back"
    message = {"type": "task_update", "task_id": task_id, "data": {"plain": 1}, "timestamp": time.time()}
    async with step(what, PLAIN_ADVICE) as notes:
        subscribers = await redis.publish("task_updates", json.dumps(message).encode())
        if not subscribers and not is_cluster:  # a cluster counts the subscribers of one node only
            raise StepFailed(what, "nobody is subscribed to task_updates on this Redis", PLAIN_ADVICE)
        notes.append(f"{subscribers} received it")
        await wait_for(updates, "plain")


async def publish_durably(redis: RedisBroker, updates: Updates, task_id: str) -> None:
    """Publish durably, like Relay's own clients, and wait for the update.

    The update ends the task, so Redis deletes the task after RELAY_TERMINAL_STATE_TTL.

    Raises:
        StepFailed: the update did not arrive.
    """
    async with step("a durable publish came back", DURABLE_ADVICE) as notes:
        position = await redis.publish_task_update(task_id, {"durable": 1, "status": "completed"})
        notes.append("without a position: Redis is full" if position is None else f"at offset {position.offset}")
        await wait_for(updates, "durable")


async def round_trip(redis: RedisBroker, url: str, *, is_cluster: bool) -> None:
    """Run all steps.

    Raises:
        StepFailed: a step failed; the later ones did not run.
    """
    async with step("Redis answers", REDIS_ADVICE):
        await redis.ping()
    task_id = f"test-redis-{token_hex(4)}"
    changes: list[ConnectionChange] = []
    async with subscribe(url, [task_id], on_connection=changes.append) as updates:
        async with step("the relay accepts a WebSocket", RELAY_ADVICE) as notes:
            try:
                await updates.established()
            except trio.Cancelled:
                notes.extend(map(str, changes[-1:]))
                raise
        await publish_plain(redis, updates, task_id, is_cluster=is_cluster)
        await publish_durably(redis, updates, task_id)


async def run(place: Place, url: str, settings: Settings, redis_settings: RedisSettings) -> StepFailed | None:
    """Run all steps. Return the one that failed, if any."""
    async with open_redis(place.url, settings, redis_settings) as redis:
        try:
            await round_trip(redis, url, is_cluster=parse(place.url).is_sharded)
        except StepFailed as failure:
            return failure
    return None


def main() -> int:
    """Run the command. Return the exit status."""
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
