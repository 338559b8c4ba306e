"""The channels on which it is announced who comes to another channel and who leaves it, and who is there."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from relay.core.json_errors import NOT_JSON

#: Begins the name within Relay of such a channel.
MEMBERS_PREFIX = "members:"

#: The types of the updates there.
JOIN, LEAVE = "join", "leave"


def members_channel(channel: str) -> str:
    """Return the channel on which it is announced who comes and goes."""
    return MEMBERS_PREFIX + channel


def channel_of_members(channel: str) -> str:
    """Return the channel that the members are of; any other channel as it is."""
    return channel.removeprefix(MEMBERS_PREFIX)


class Member(NamedTuple):
    """A client in a channel.

    Attributes:
        info: What others see of it, as JSON.
        announced: It is announced when it comes and when it leaves.
    """

    info: bytes
    announced: bool


class Present(NamedTuple):
    """Who is in a channel.

    Attributes:
        clients: What others see of each, as JSON, by its id.
    """

    clients: Mapping[str, bytes]

    @property
    def user_count(self) -> int:
        """How many users they are."""
        return len({_user_of(info) for info in self.clients.values()})


class _Info(msgspec.Struct):
    user: str = ""


def _user_of(info: bytes) -> str:
    try:
        return msgspec.json.decode(info, type=_Info).user
    except NOT_JSON:
        return ""
