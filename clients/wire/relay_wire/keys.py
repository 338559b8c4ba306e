"""The names of everything that Relay keeps in Redis; docs/redis.md lists them with their bounds.

A channel belongs to one of 64 buckets, by the checksum of its name. All keys of a bucket, the indexes of its tasks, and the
Redis channels of its updates share a hash tag. So on a cluster they lie on one node, and one script can change them together.
"""

from functools import lru_cache
from zlib import crc32

from relay_wire.channels import FAMILY_PREFIX, TASK_PREFIX

#: All keys and all Redis channels of Relay begin with this.
PREFIX = "relay:"

#: Never change it: another number would give every key another name.
BUCKETS = 64

#: The lock of the one relay that supervises tasks.
SUPERVISOR = "relay:supervisor"

#: The lock of the one relay that rolls up children.
ROLL_UP = "relay:rollup"

#: A relay publishes probes to itself, on this prefix and a random name, to verify that its subscription works.
PROBE = "relay:probe:"

#: On this channel relays ask each other which plain messages are not persisted yet.
BARRIER = "relay:barrier"

#: On this channel workers receive requests to cancel a task.
CANCEL = "relay:cancel"

#: Revoked grants, a sorted set; and the channel on which relays receive new ones. See `relay_wire.revocations`.
REVOCATIONS = "relay:revocations"
REVOKED = "relay:revoked"

#: On this channel relays receive what the server's API orders for connected clients.
ORDERS = "relay:orders"

#: Begins the channel on which one relay receives what its clients send over other connections.
NODE = "relay:node:"

#: The relays that live, a sorted set of their names by their last sign of life; and the channel of questions to all of them.
NODES = "relay:nodes"
QUESTIONS = "relay:questions"

#: Begins the key of a ticket's grant.
TICKET = "relay:ticket:"


def answers(question_id: str) -> str:
    """Return the key of the relays' answers to a question, a hash."""
    return f"{PREFIX}answers:{question_id}"


def pubsub_channel(channel: str) -> str:
    """Return the Redis channel on which a channel's updates are published with their positions."""
    if channel.startswith(FAMILY_PREFIX):
        return (
            f"{PREFIX}{{family}}:{channel}"  # of tasks in all buckets: the scripts' fragment families has the same name
        )
    return f"{PREFIX}{{{crc32(channel.encode()) % BUCKETS}}}:{channel}"


def channel_of(redis_channel: str) -> str:
    """Return Relay's channel name for a Redis channel that `pubsub_channel` named."""
    return redis_channel.partition("}:")[2]


def tag_of(name: str) -> str:
    """Return the hash tag of a key or Redis channel, or the whole name if it has none."""
    _, found, rest = name.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if found and closed and tag else name


def meta(channel: str) -> str:
    """Return the key of a channel's numbers, a hash with epoch, top and more."""
    return f"{pubsub_channel(channel)}:meta"


def log(channel: str) -> str:
    """Return the key of a channel's history, a stream."""
    return f"{pubsub_channel(channel)}:log"


def event_id(channel: str, digest: str) -> str:
    """Return the key of the position of an update to which its publisher has given an id, of which this is a digest."""
    return f"{pubsub_channel(channel)}:event:{digest}"


def presence(channel: str) -> tuple[str, str]:
    """Return the keys of who is in a channel: a sorted set by when each is forgotten, and a hash of what they are."""
    name = pubsub_channel(channel)
    return f"{name}:present", f"{name}:members"


def state(channel: str) -> str:
    """Return the key of a task's state, a hash of fields as JSON text."""
    return f"{pubsub_channel(channel)}:state"


def generation(bucket: int) -> str:
    """Return the key that names the memory of a bucket: a Redis that lost its memory has another value there."""
    return f"{PREFIX}{{{bucket}}}:generation"


def tasks(bucket: int) -> str:
    """Return the key of a bucket's sorted set of task ids by last activity, in milliseconds."""
    return f"{PREFIX}{{{bucket}}}:tasks"


def names(bucket: int) -> str:
    """Return the key of a bucket's sorted set of task ids by their texts: the ids of `tasks`, all with the score 0."""
    return f"{PREFIX}{{{bucket}}}:names"


def running(bucket: int) -> str:
    """Return the key of a bucket's sorted set of tasks in progress by last activity, in milliseconds."""
    return f"{PREFIX}{{{bucket}}}:running"


def tasks_of_owner(bucket: int, owner: str) -> str:
    """Return the key of a bucket's sorted set of the tasks of a user or group, by last activity, in milliseconds."""
    return f"{PREFIX}{{{bucket}}}:owner:{owner}:tasks"


def tasks_of_parent(bucket: int, parent_id: str) -> str:
    """Return the key of a bucket's sorted set of the children of a task, by last activity, in milliseconds."""
    return f"{PREFIX}{{{bucket}}}:parent:{parent_id}:tasks"


def roll_ups(bucket: int) -> str:
    """Return the key of a bucket's hash of children whose parents do not include their last update yet."""
    return f"{PREFIX}{{{bucket}}}:rollups"


@lru_cache(4096)
def channel_keys(channel: str) -> tuple[str, ...]:
    """Return the keys that scripts take for a channel: meta, log, state and generation, and a task's two indexes."""
    name = pubsub_channel(channel)
    bucket = name[: -len(channel) - 1]
    names = (f"{name}:meta", f"{name}:log", f"{name}:state", f"{bucket}:generation")
    if not channel.startswith(TASK_PREFIX):
        return names
    return (*names, f"{bucket}:tasks", f"{bucket}:running")
