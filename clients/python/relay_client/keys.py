"""The names of everything that Relay keeps in Redis; docs/redis.md shows them with their bounds.

Every channel belongs to one of 64 buckets by its name's checksum. All keys of a bucket, its tasks' indexes, and the Redis
channels that its updates are published on, share a hash tag: on a cluster they lie on one node, and one script can keep them in
step.
"""

from functools import lru_cache
from zlib import crc32

PREFIX = "relay:"
TASK_PREFIX = "task:"

#: Fixed for ever: another number would put every key under another name.
BUCKETS = 64

#: The lock of the one relay that supervises tasks, and the token that fences it.
SUPERVISOR = "relay:supervisor"

#: Where each relay publishes to itself, to see that its subscription lives; a random name follows.
CANARY = "relay:canary:"

#: Where relays ask each other what is still to be recorded.
ORDER = "relay:order"


def feed(channel: str) -> str:
    """The Redis channel on which a channel's updates are published with their positions."""
    return f"{PREFIX}{{{crc32(channel.encode()) % BUCKETS}}}:{channel}"


def channel_of(feed_name: str) -> str:
    """The channel of a feed's name."""
    return feed_name.partition("}:")[2]


def tag_of(name: str) -> str:
    """The hash tag of a key or feed; the name itself where it has none."""
    _, found, rest = name.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if found and closed and tag else name


def meta(channel: str) -> str:
    """Hash: epoch and top."""
    return f"{feed(channel)}:meta"


def log(channel: str) -> str:
    """Stream of the last updates."""
    return f"{feed(channel)}:log"


def state(channel: str) -> str:
    """Hash of a task's fields, each as JSON text."""
    return f"{feed(channel)}:state"


@lru_cache(4096)
def of_channel(channel: str) -> tuple[str, ...]:
    """What the publish script takes as KEYS: meta, log, state, and for a task its bucket's two indexes."""
    name = feed(channel)
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
