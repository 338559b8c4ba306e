"""What Redis has of a channel, read past all of Relay's own code."""

from typing import Any

import msgspec
import redis
from relay_wire import keys

from tests.harness import RedisServer


def log_of(server: RedisServer, channel: str) -> list[tuple[int, str, Any]]:
    """The channel's kept updates: offset, type, data."""
    with server.client() as client:
        return read_log(client, channel)


def read_log(client: "redis.Redis | redis.RedisCluster", channel: str) -> list[tuple[int, str, Any]]:
    entries: Any = client.xrange(keys.log(channel))
    return [
        (int(name.partition(b"-")[0]), fields[b"type"].decode(), msgspec.json.decode(fields[b"data"]))
        for name, fields in entries
    ]


def state_of(server: RedisServer, task_id: str) -> dict[str, Any]:
    """The task's folded state."""
    with server.client() as client:
        fields: Any = client.hgetall(keys.state(f"task:{task_id}"))
    return {name.decode(): msgspec.json.decode(value) for name, value in fields.items()}
