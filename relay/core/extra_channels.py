"""The names of operators' channels within Relay, where they must not be those of a task's or the general channel.

An operator's channel has its own name, except where Relay has that name for itself: what a service publishes on a Redis channel
``task:7`` of its own is no update of the task 7.
"""

from relay_wire.channels import FAMILY_PREFIX, GENERAL, TASK_PREFIX

from relay.core.membership import MEMBERS_PREFIX
from relay.core.topics import TOPIC_PREFIX, TOPICS

#: Begins the name within Relay of a channel whose own name is taken.
_PREFIX = "extra:"


def channel_of(name: str) -> str:
    """Return the channel, within Relay, of the Redis channel that an operator names."""
    prefixes = (TASK_PREFIX, TOPIC_PREFIX, FAMILY_PREFIX, MEMBERS_PREFIX, _PREFIX)
    is_taken = name in (GENERAL, TOPICS) or name.startswith(prefixes)
    return _PREFIX + name if is_taken else name


def name_of(channel: str) -> str:
    """Return the name by which clients know an operator's channel."""
    return channel.removeprefix(_PREFIX)
