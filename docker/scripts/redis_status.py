"""``make redis-status``: show whether Redis answers, its memory use, its persistence, its subscribers and its tasks.

Exits with status 0 if every server answers. Recommendations for the operator follow the figures.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import redis
from redis_place import Place, connect, read_place
from relay_wire import keys
from relay_wire.channels import TASK_PREFIX
from relay_wire.statuses import IN_PROGRESS

from relay.config import RedisSettings
from relay.core.task_state import status_of

#: Tasks whose states are read in one round trip.
TASKS_AT_ONCE = 500

PLAIN_CHANNELS = ("task_updates", "general_updates")


def size(number: int) -> str:
    """Format a number of bytes."""
    return f"{number / 2**20:.1f} MiB" if number < 2**30 else f"{number / 2**30:.2f} GiB"


def servers(client: "redis.Redis | redis.RedisCluster") -> Iterator[tuple[str, "redis.Redis"]]:
    """Yield each server that accepts writes, with its name."""
    if isinstance(client, redis.RedisCluster):
        for node in client.get_primaries():  # type: ignore[no-untyped-call]
            yield node.name, client.get_redis_connection(node)
    else:
        yield "server", client


def persistence(server: "redis.Redis", info: dict[str, Any]) -> str:
    """Describe what survives a crash.

    Raises:
        redis.RedisError: the server does not answer.
    """
    if info.get("aof_enabled"):
        return f"AOF, last write {info.get('aof_last_write_status')}"
    try:
        saves = server.config_get("save").get("save")
    except redis.ResponseError:  # hosted servers do not allow CONFIG
        return "no AOF"
    if not saves:
        return "none: the data is lost when it exits"
    return f"snapshots only, {info.get('rdb_changes_since_last_save')} changes since the last one"


def recommendations(info: dict[str, Any]) -> Iterator[str]:
    """Yield what the operator should change, and how."""
    if info.get("maxmemory_policy") != "noeviction":
        yield f"maxmemory-policy is {info.get('maxmemory_policy')}: set noeviction, or clients lose their positions"
    if not info.get("maxmemory"):
        yield "maxmemory is not set: without a limit the kernel may kill Redis when the machine runs out of memory"
    elif info["used_memory"] > 0.9 * info["maxmemory"]:
        yield "almost full: raise maxmemory, or lower RELAY_HISTORY_SIZE and RELAY_HISTORY_TTL"
    if info.get("evicted_keys"):
        yield f"{info['evicted_keys']} keys were evicted: the clients of these channels were notified of lost updates"
    if info.get("rejected_connections"):
        yield f"{info['rejected_connections']} connections were rejected: raise maxclients"
    if info.get("aof_enabled") and info.get("aof_last_write_status") != "ok":
        yield "Redis cannot write the AOF: is the disk full?"


def report(name: str, server: "redis.Redis") -> list[str]:
    """Print the figures of a server. Return the recommendations.

    Raises:
        redis.RedisError: the server does not answer.
    """
    info: dict[str, Any] = server.info()
    product = info.get("server_name", "redis")
    version = info.get("valkey_version") or info.get("redis_version")
    limit = size(info["maxmemory"]) if info.get("maxmemory") else "no limit"
    subscribers = ", ".join(f"{count} on {channel!s}" for channel, count in server.pubsub_numsub(*PLAIN_CHANNELS))
    print(name)
    mode = info.get("server_mode") or info.get("redis_mode")
    print(f"  version      {product} {version}, {mode}, {info['role']}, up {info['uptime_in_seconds']} s")
    print(f"  clients      {info['connected_clients']}")
    print(f"  memory       {size(info['used_memory'])} of {limit}, {info['maxmemory_policy']}")
    print(f"  persistence  {persistence(server, info)}")
    print(f"  subscribers  {subscribers}")
    return [f"{name}: {recommendation}" for recommendation in recommendations(info)]


class TaskCounts(NamedTuple):
    """The tasks that ``GET /api/tasks`` lists.

    Attributes:
        known: All of them.
        in_progress: Those whose status is in_progress.
        stalled: Those of the tasks in progress that have stopped reporting.
    """

    known: int
    in_progress: int
    stalled: int


def count_tasks(client: "redis.Redis | redis.RedisCluster") -> TaskCounts:
    """Count the tasks in Redis by their states, as a relay does for its list.

    Raises:
        redis.RedisError: a server does not answer.
    """
    known = in_progress = stalled = 0
    for bucket in range(keys.BUCKETS):
        task_ids: list[str] = [str(task_id) for task_id in client.zrange(keys.tasks(bucket), 0, -1)]
        for some in batched(task_ids, TASKS_AT_ONCE):
            with client.pipeline(transaction=False) as pipe:
                for task_id in some:
                    pipe.exists(keys.meta(TASK_PREFIX + task_id), keys.state(TASK_PREFIX + task_id))
                    pipe.hmget(keys.state(TASK_PREFIX + task_id), "status", "stalled")
                answers = pipe.execute(raise_on_error=False)
            for found, fields in zip(answers[::2], answers[1::2], strict=True):
                if found != 2 or not isinstance(fields, list):  # its state has expired, or cannot be read
                    continue
                known += 1
                if status_of({"status": (fields[0] or "null").encode()}) == IN_PROGRESS:
                    in_progress += 1
                    stalled += fields[1] == "true"
    return TaskCounts(known, in_progress, stalled)


def batched(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Yield the items in groups of at most so many."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def show(place: Place, settings: RedisSettings) -> None:
    """Print all figures and recommendations.

    Raises:
        redis.RedisError: a server does not answer.
    """
    client = connect(place, settings)
    try:
        advice = [recommendation for name, server in servers(client) for recommendation in report(name, server)]
        print("tasks          {} known, {} in progress, {} of them stalled".format(*count_tasks(client)))
    finally:
        client.close()
    for recommendation in advice:
        print(f"! {recommendation}")


def main() -> int:
    """Run the command. Return the exit status."""
    settings, place = read_place()
    print(f"Redis  {place}", flush=True)
    try:
        show(place, settings)
    except redis.ResponseError as error:
        print(
            f"Redis refused: {error}\nThe Redis user needs the command INFO: see the permissions in docs/deploy.md.",
            file=sys.stderr,
        )
        return 1
    except (redis.RedisError, OSError) as error:
        print(f"Redis does not answer: {error}\nSee docs/troubleshoot.md, 'Redis connection failed'.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
