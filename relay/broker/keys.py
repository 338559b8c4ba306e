"""The names of everything that Relay keeps in Redis; docs/redis.md shows them with their bounds.

All keys of one channel, and the channel that its updates are published on, share a hash tag: on a cluster they lie on one node.
"""

PREFIX = "relay:"

#: Sorted sets of task ids by last activity, in milliseconds: all tasks, and those in progress.
INDEX = "relay:tasks"
RUNNING = "relay:running"

#: The lock of the one relay that supervises tasks, and the token that fences it.
SUPERVISOR = "relay:supervisor"

#: Where each relay publishes to itself, to see that its subscription lives; a random name follows.
CANARY = "relay:canary:"


def feed(channel: str) -> str:
    """The Redis channel on which a channel's updates are published with their positions."""
    return f"{PREFIX}{{{channel}}}"


def channel_of(feed_name: str) -> str:
    """The channel of a feed's name."""
    return feed_name[len(PREFIX) + 1 : -1]


def meta(channel: str) -> str:
    """Hash: epoch and top."""
    return f"{PREFIX}{{{channel}}}:meta"


def log(channel: str) -> str:
    """Stream of the last updates."""
    return f"{PREFIX}{{{channel}}}:log"


def state(channel: str) -> str:
    """Hash of a task's fields, each as JSON text."""
    return f"{PREFIX}{{{channel}}}:state"
