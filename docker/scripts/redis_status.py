"""``make redis-status``: does Redis answer, how full is it, does it keep what it has, and who listens.

Exit status 0 when every server answers. What an operator should change is said below the figures.
"""

import sys
from collections.abc import Iterator
from typing import Any

import redis
from redis_place import Place, connect, find_redis
from relay_wire import keys

from relay.config import RedisSettings, load
from relay.core.errors import ConfigError

PLAIN_CHANNELS = ("task_updates", "general_updates")


def size(number: int) -> str:
    """Bytes, for people."""
    return f"{number / 2**20:.1f} MiB" if number < 2**30 else f"{number / 2**30:.2f} GiB"


def servers(client: "redis.Redis | redis.RedisCluster") -> Iterator[tuple[str, "redis.Redis"]]:
    """The servers that take writes, by name."""
    if isinstance(client, redis.RedisCluster):
        for node in client.get_primaries():  # type: ignore[no-untyped-call]
            yield node.name, client.get_redis_connection(node)
    else:
        yield "server", client


def persistence(server: "redis.Redis", info: dict[str, Any]) -> str:
    """What survives a crash. Raises redis.RedisError."""
    if info.get("aof_enabled"):
        return f"AOF, last write {info.get('aof_last_write_status')}"
    try:
        saves = server.config_get("save").get("save")
    except redis.ResponseError:  # hosted servers do not tell
        return "no AOF"
    if not saves:
        return "none: what it holds is gone when it ends"
    return f"snapshots only, {info.get('rdb_changes_since_last_save')} changes since the last one"


def complaints(info: dict[str, Any]) -> Iterator[str]:
    """What does not suit Relay, and what to do."""
    if info.get("maxmemory_policy") != "noeviction":
        yield f"maxmemory-policy is {info.get('maxmemory_policy')}: set noeviction, or clients lose their positions"
    if not info.get("maxmemory"):
        yield "maxmemory is not set: without a bound the kernel may kill Redis when the machine's memory is used up"
    elif info["used_memory"] > 0.9 * info["maxmemory"]:
        yield "almost full: raise maxmemory, or lower RELAY_HISTORY_SIZE and RELAY_HISTORY_TTL"
    if info.get("evicted_keys"):
        yield f"{info['evicted_keys']} keys were evicted: those channels' clients were told that updates were lost"
    if info.get("rejected_connections"):
        yield f"{info['rejected_connections']} connections were rejected: raise maxclients"
    if info.get("aof_enabled") and info.get("aof_last_write_status") != "ok":
        yield "the AOF cannot be written: is the disk full?"


def report(name: str, server: "redis.Redis") -> list[str]:
    """Print a server's figures; returns the complaints. Raises redis.RedisError."""
    info: dict[str, Any] = server.info()
    product = info.get("server_name", "redis")
    version = info.get("valkey_version") or info.get("redis_version")
    limit = size(info["maxmemory"]) if info.get("maxmemory") else "no limit"
    listening = ", ".join(f"{count} on {channel!s}" for channel, count in server.pubsub_numsub(*PLAIN_CHANNELS))
    print(name)
    mode = info.get("server_mode") or info.get("redis_mode")
    print(f"  version      {product} {version}, {mode}, {info['role']}, up {info['uptime_in_seconds']} s")
    print(f"  clients      {info['connected_clients']}")
    print(f"  memory       {size(info['used_memory'])} of {limit}, {info['maxmemory_policy']}")
    print(f"  persistence  {persistence(server, info)}")
    print(f"  listening    {listening}")
    return [f"{name}: {complaint}" for complaint in complaints(info)]


def tasks(client: "redis.Redis | redis.RedisCluster") -> tuple[int, int]:
    """How many tasks are known, and how many of them are in progress. Raises redis.RedisError."""
    with client.pipeline(transaction=False) as pipe:
        for bucket in range(keys.BUCKETS):
            pipe.zcard(keys.tasks(bucket))
            pipe.zcard(keys.running(bucket))
        answers = pipe.execute()
    return sum(answers[::2]), sum(answers[1::2])


def show(place: Place, settings: RedisSettings) -> None:
    """Print everything. Raises redis.RedisError."""
    client = connect(place, settings)
    try:
        wrong = [complaint for name, server in servers(client) for complaint in report(name, server)]
        print("tasks          {} known, {} in progress".format(*tasks(client)))
    finally:
        client.close()
    for complaint in wrong:
        print(f"! {complaint}")


def main() -> int:
    """Returns the exit status."""
    try:
        _, settings = load()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    place = find_redis(settings)
    print(f"Redis  {place}", flush=True)
    try:
        show(place, settings)
    except redis.ResponseError as error:
        print(
            f"Redis refuses: {error}\nIt wants to be asked with INFO: docs/deploy.md has the rights.", file=sys.stderr
        )
        return 1
    except (redis.RedisError, OSError) as error:
        print(f"Redis does not answer: {error}\nSee docs/troubleshoot.md, 'Redis connection failed'.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
