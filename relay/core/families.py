"""Families: a task together with its children, as one channel with one position."""

from collections.abc import Callable

from relay_wire.channels import FAMILY_PREFIX, TASK_PREFIX

#: Says whether a client may watch a task that these users and groups own.
MayWatch = Callable[[str, frozenset[str]], bool]

#: A relay asks for the families that its clients follow so often, in seconds; Redis forgets those that nobody has asked for.
RENEW_INTERVAL = 15.0

#: Seconds for which Redis keeps a family at least after it was asked for.
MIN_TTL = 60

#: Children in the answer to a client that does not resume, and bytes of their states, give or take one.
MAX_CHILDREN = 1000
MAX_STATES_BYTES = 4 * 1024 * 1024

#: The answer to a client that asks for a family on a cluster.
NO_FAMILIES = (
    "this relay's Redis is a cluster, where a task cannot be followed together with its children; follow each task"
)


def family_channel(channel: str) -> str:
    """Return the channel of the family of a task's channel."""
    return FAMILY_PREFIX + channel[len(TASK_PREFIX) :]


def is_family(channel: str) -> bool:
    """Whether a channel is that of a family."""
    return channel.startswith(FAMILY_PREFIX)


def parent_of(channel: str) -> str:
    """Return the id of the task whose family a channel is."""
    return channel[len(FAMILY_PREFIX) :]


def watched_task(channel: str) -> str:
    """Return the channel that a client must be allowed to watch in order to follow this one: of a family, its parent's."""
    return TASK_PREFIX + parent_of(channel) if is_family(channel) else channel
