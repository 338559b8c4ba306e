"""What all methods of one Centrifuge client have in common: who it is, what it may do, and the form of its answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from time import time
from typing import Any

import msgspec
from msgspec.structs import replace

from relay.core.client_channels import ClientChannels
from relay.core.connection_claims import ConnectionGrant, ServerSubscription
from relay.core.grants import NOTHING, Grant
from relay.protocols.base import Reply
from relay.protocols.centrifuge_codes import ErrorCode
from relay.protocols.centrifuge_commands import Codec, one_line

_json = msgspec.json.Encoder().encode

#: Seconds after the end of a token within which a client may show another one. Clients do so when it ends, not before.
GRACE = 25.0


@dataclass(frozen=True, slots=True)
class CentrifugeServer:
    """What all clients of one relay have in common.

    Attributes:
        channels: The channels that they may name.
        ping_interval: Seconds between two pings.
        version: The relay's version.
        max_channels: Channels of one client at most.
        now: The time, in seconds of the Unix epoch.
    """

    channels: ClientChannels
    ping_interval: float
    version: str
    max_channels: int
    now: Callable[[], float] = time


class CentrifugeClient:
    """One client.

    Args:
        server: What all clients have in common.
        codec: The format of its messages.

    Attributes:
        id: Its id, once it has connected.
        grant: What its token says.
    """

    __slots__ = ("codec", "grant", "id", "server")

    def __init__(self, server: CentrifugeServer, codec: Codec) -> None:
        self.server = server
        self.codec = codec
        self.id = ""
        self.grant = NOTHING

    def admit(self, grant: Grant) -> Grant:
        """Note a grant; return it as the session is to have it: with what namespaces allow, and time to show the next token."""
        self.grant = grant
        return with_grace(self.server.channels.widened(grant), grant)

    def lifetime(self, grant: Grant) -> dict[str, Any]:
        """Return what to send to the client before its grant ends."""
        ends = grant_end(grant)
        return {} if ends is None else {"expires": True, "ttl": max(1, ceil(ends - self.server.now()))}

    @property
    def user(self) -> str:
        """Its user; empty for none."""
        return self.grant.subject or ""

    def info(self, in_channel: bytes | None) -> bytes:
        """Return what others see of the client, as JSON.

        Args:
            in_channel: What is to be seen of it in one channel only, as JSON.
        """
        info: dict[str, Any] = {"user": self.user, "client": self.id}
        of_connection = self.grant.info if isinstance(self.grant, ConnectionGrant) else None
        for name, value in (("conn_info", of_connection), ("chan_info", in_channel)):
            if value is not None:
                info[name] = one_line(value)
        return _json(info)

    def reply(self, id: int, key: str, result: dict[str, Any]) -> Reply:
        """Return the reply to a command."""
        return Reply(self.codec.reply(id, key, result))

    def error_payload(self, id: int, error: ErrorCode) -> bytes:
        """Return the error reply to a command, as a payload."""
        return self.codec.error(id, error.code, error.message, error.temporary)

    def error(self, id: int, error: ErrorCode) -> Reply:
        """Return the error reply to a command."""
        return Reply(self.error_payload(id, error))


def grant_end(grant: Grant) -> float | None:
    """Return when what a token was shown for ends; None is never."""
    return grant.lifetime_ends if isinstance(grant, ConnectionGrant) else grant.expires_at


def with_grace(grant: Grant, shown: Grant) -> Grant:
    """Return a grant that ends some time after the one that was shown."""
    ends = grant_end(shown)
    if ends is None and grant.expires_at is None:
        return grant
    return replace(grant, expires_at=None if ends is None else ends + GRACE)


def subscriptions_of(grant: Grant) -> Mapping[str, ServerSubscription]:
    """Return the channels that a token gives its client."""
    return grant.subscriptions if isinstance(grant, ConnectionGrant) else {}
