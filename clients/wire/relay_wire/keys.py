"""The names of everything that Relay keeps in Redis; docs/redis.md shows them with their bounds.

Every channel belongs to one of 64 buckets by its name's checksum. All keys of a bucket, its tasks' indexes, and the Redis
channels that its updates are published on, share a hash tag: on a cluster they lie on one node, and one script can keep them in
step.
"""

from functools import lru_cache
from zlib import crc32

from relay_wire.channels import TASK_PREFIX

PREFIX = "relay:"

#: Never change it: another number would put every key under another name.
BUCKETS = 64

#: The lock of the one relay that supervises tasks, and the token that fences it.
SUPERVISOR = "relay:supervisor"

#: Each relay publishes probes to itself on this prefix and a random name, to verify that its subscription works.
PROBE = "relay:probe:"

#: On this channel relays ask each other which updates are still to be recorded.
BARRIER = "relay:barrier"


def pubsub_channel(channel: str) -> str:
    """The Redis channel on which a channel's updates are published with their positions."""
    return f"{PREFIX}{{{crc32(channel.encode()) % BUCKETS}}}:{channel}"


def channel_of(redis_channel: str) -> str:
    """Return Relay's channel name for a Redis channel that `pubsub_channel` named."""
    return redis_channel.partition("}:")[2]


def tag_of(name: str) -> str:
    """The hash tag of a key or feed; the name itself where it has none."""
    _, found, rest = name.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if found and closed and tag else name


def meta(channel: str) -> str:
    """Hash: epoch and top."""
    return f"{pubsub_channel(channel)}:meta"


def log(channel: str) -> str:
    """Stream of the latest updates."""
    return f"{pubsub_channel(channel)}:log"


def state(channel: str) -> str:
    """Hash of a task's fields, each as JSON text."""
    return f"{pubsub_channel(channel)}:state"


@lru_cache(4096)
def of_channel(channel: str) -> tuple[str, ...]:
    """What the publish script takes as KEYS: meta, log, state, and for a task its bucket's two indexes."""
    name = pubsub_channel(channel)
    names = (f"{name}:meta", f"{name}:log", f"{name}:state")
    if not channel.startswith(TASK_PREFIX):
        return names
    bucket = name[: -len(channel) - 1]
    return (*names, f"{bucket}:tasks", f"{bucket}:running")


def tasks(bucket: int) -> str:
    """Sorted set of a bucket's task ids by last activity, in milliseconds."""
    return f"{PREFIX}{{{bucket}}}:tasks"


def running(bucket: int) -> str:
    """The same of those in progress."""
    return f"{PREFIX}{{{bucket}}}:running"
