"""Centrifugo's claims: what a token of a connection or of a subscription says, as a grant.

A connection's token has `sub`, `info`, `channels` or `subs`; it may have Relay's `relay` as well. A subscription's token has
`channel`. docs/centrifuge.md has the claims.
"""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
from relay_wire.channels import MAX_NAME_LENGTH

from relay.core.client_channels import scope_of
from relay.core.errors import BadGrant
from relay.core.grant_claims import MAX_NAMES, read_claims, read_seconds
from relay.core.grants import Grant, Verb, with_scope

_json = msgspec.json.Encoder().encode


def _no_subscriptions() -> Mapping[str, "ServerSubscription"]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ServerSubscription:
    """A channel that a connection's token subscribes the client to.

    Attributes:
        info: What others see of the client in this channel, as JSON.
        data: What the client is given with the subscription, as JSON.
    """

    info: bytes | None = None
    data: bytes | None = None


class ConnectionGrant(Grant, frozen=True, gc=False):
    """A grant with what Centrifugo's claims say besides. `expires_at` is the end of the token.

    Attributes:
        info: What others see of the client, as JSON: of a connection, or in one channel.
        subscriptions: The channels that the client gets without asking.
        channel: The one channel that a subscription's token is for; None for a connection's.
        client: The one client that a subscription's token is for, where it names one.
        data: What the client is given with the subscription, as JSON.
        ends_at: When the connection or subscription ends, where that is not the end of the token; infinite for never.
    """

    info: bytes | None = None
    subscriptions: Mapping[str, ServerSubscription] = msgspec.field(default_factory=_no_subscriptions)
    channel: str | None = None
    client: str | None = None
    data: bytes | None = None
    ends_at: float | None = None

    @property
    def lifetime_ends(self) -> float | None:
        """When what the token was shown for ends; None is never."""
        if self.ends_at is None:
            return self.expires_at
        return None if self.ends_at == float("inf") else self.ends_at


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_NAME_LENGTH:
        raise BadGrant(f"the claim `{name}` must be a text of {MAX_NAME_LENGTH} characters at most")
    return value


def _value(claims: Mapping[str, Any], name: str) -> bytes | None:
    """Return a claim that may have any value, as JSON; it may come in base64."""
    encoded = claims.get(f"b64{name}")
    if encoded:
        try:
            raw = b64decode(encoded, validate=True)
            return _json(msgspec.json.decode(raw))
        except (TypeError, ValueError, msgspec.DecodeError, RecursionError):
            raise BadGrant(f"the claim `b64{name}` must be the base64 of JSON") from None
    return _json(claims[name]) if claims.get(name) is not None else None


def _end(claims: Mapping[str, Any]) -> float | None:
    seconds = read_seconds(claims, "expire_at")
    return float("inf") if seconds == 0 else seconds


def _subscriptions(claims: Mapping[str, Any]) -> dict[str, ServerSubscription]:
    subs, channels = claims.get("subs"), claims.get("channels")
    if subs:
        if not isinstance(subs, dict) or not all(isinstance(options, dict) for options in subs.values()):
            raise BadGrant("the claim `subs` must be an object of objects")
        found = {
            name: ServerSubscription(_value(options, "info"), _value(options, "data")) for name, options in subs.items()
        }
    else:
        if not isinstance(channels or [], list) or not all(isinstance(name, str) for name in channels or []):
            raise BadGrant("the claim `channels` must be a list of texts")
        found = dict.fromkeys(channels or [], ServerSubscription())
    if len(found) > MAX_NAMES or not all(0 < len(name) <= MAX_NAME_LENGTH for name in found):
        raise BadGrant(f"a token names {MAX_NAMES} channels at most, of 1 to {MAX_NAME_LENGTH} characters each")
    return found


def read_connection_claims(claims: Mapping[str, Any]) -> Grant:
    """Read the grant of a connection or of a subscription from a token's claims.

    The signature was checked before. The channels that a token names are granted to be watched, and what its claim `relay`
    says.

    Raises:
        BadGrant: A claim is malformed; the message says which.
    """
    channel = _text(claims, "channel")
    base = read_claims({"relay": {}, **{name: value for name, value in claims.items() if value != ""}})
    subscriptions = {} if channel is not None else _subscriptions(claims)
    for name in subscriptions if channel is None else (channel,):
        base = with_scope(base, Verb.WATCH, scope_of(name))
    return ConnectionGrant(
        **msgspec.structs.asdict(base),
        info=_value(claims, "info"),
        subscriptions=MappingProxyType(subscriptions),
        channel=channel,
        client=_text(claims, "client"),
        data=_value(claims, "data"),
        ends_at=_end(claims),
    )


def channel_grant(name: str, expires_at: float | None) -> Grant:
    """Return a grant for watching one channel, by the name that Centrifuge clients know."""
    return Grant(MappingProxyType({Verb.WATCH: scope_of(name)}), expires_at=expires_at)
