"""The Centrifuge protocol in Protocol Buffers: commands, replies and pushes behind their lengths, in binary messages.

The numbers of the fields are those of the protocol's public schema; fields that are neither read nor sent are not here.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from relay.core.client_channels import name_of_channel
from relay.core.errors import BadMessage
from relay.core.json_errors import NOT_JSON
from relay.core.membership import JOIN, LEAVE, channel_of_members
from relay.core.recovery import Snapshot
from relay.core.shared_updates import SharedUpdates
from relay.core.updates import Update
from relay.protocols.centrifuge_commands import ClientCommand, Pushes, data_of, encodings_of
from relay.protocols.protobuf import (
    BOOL,
    BYTES,
    INT,
    TEXT,
    UINT,
    EncodedList,
    Field,
    Table,
    decode,
    delimited,
    encode,
    read_delimited,
    varint,
)

_CHANNEL = Table({1: Field("channel", TEXT)})
_TOKEN = Table({1: Field("token", TEXT)})
_RECOVERY = Table({3: Field("recover", BOOL), 6: Field("epoch", TEXT), 7: Field("offset", UINT)})
_SUBSCRIBE = Table(
    {
        1: Field("channel", TEXT),
        2: Field("token", TEXT),
        **_RECOVERY,
        8: Field("data", BYTES),
        9: Field("positioned", BOOL),
        10: Field("recoverable", BOOL),
        11: Field("join_leave", BOOL),
        12: Field("delta", TEXT),
        13: Field("tf", Table({})),
        14: Field("flag", INT),
        15: Field("type", INT),
    }
)
_HISTORY = Table(
    {
        1: Field("channel", TEXT),
        7: Field("limit", INT),
        8: Field("since", Table({1: Field("offset", UINT), 2: Field("epoch", TEXT)})),
        9: Field("reverse", BOOL),
    }
)
_COMMAND = Table(
    {
        1: Field("id", UINT),
        4: Field(
            "connect", Table({1: Field("token", TEXT), 3: Field("subs", _RECOVERY, "map"), 4: Field("name", TEXT)})
        ),
        5: Field("subscribe", _SUBSCRIBE),
        6: Field("unsubscribe", _CHANNEL),
        7: Field("publish", Table({1: Field("channel", TEXT), 2: Field("data", BYTES)})),
        8: Field("presence", _CHANNEL),
        9: Field("presence_stats", _CHANNEL),
        10: Field("history", _HISTORY),
        11: Field("ping", Table({})),
        12: Field("send", Table({})),
        13: Field("rpc", Table({2: Field("method", TEXT)})),
        14: Field("refresh", _TOKEN),
        15: Field("sub_refresh", Table({1: Field("channel", TEXT), 2: Field("token", TEXT)})),
    }
)
_INFO = Table(
    {
        1: Field("user", TEXT),
        2: Field("client", TEXT),
        3: Field("conn_info", BYTES),
        4: Field("chan_info", BYTES),
    }
)
_PUBLICATION = Table({4: Field("data", BYTES), 6: Field("offset", UINT)})
_MEMBER = Table({1: Field("info", _INFO)})
_SUBSCRIBED = Table(
    {
        1: Field("expires", BOOL),
        2: Field("ttl", UINT),
        3: Field("recoverable", BOOL),
        6: Field("epoch", TEXT),
        7: Field("publications", _PUBLICATION, "list"),
        8: Field("recovered", BOOL),
        9: Field("offset", UINT),
        10: Field("positioned", BOOL),
        11: Field("data", BYTES),
        12: Field("was_recovering", BOOL),
    }
)
_CONNECTED = Table(
    {
        1: Field("client", TEXT),
        2: Field("version", TEXT),
        3: Field("expires", BOOL),
        4: Field("ttl", UINT),
        6: Field("subs", _SUBSCRIBED, "map"),
        7: Field("ping", UINT),
        8: Field("pong", BOOL),
        9: Field("session", TEXT),
        10: Field("node", TEXT),
    }
)
_CODE = Table({1: Field("code", UINT), 2: Field("reason", TEXT)})
_LIFETIME = Table({1: Field("expires", BOOL), 2: Field("ttl", UINT)})
_GIVEN = Table(
    {
        1: Field("recoverable", BOOL),
        4: Field("epoch", TEXT),
        5: Field("offset", UINT),
        6: Field("positioned", BOOL),
        7: Field("data", BYTES),
    }
)
_PUSH = Table(
    {
        2: Field("channel", TEXT),
        4: Field("pub", _PUBLICATION),
        5: Field("join", _MEMBER),
        6: Field("leave", _MEMBER),
        7: Field("unsubscribe", Table({2: Field("code", UINT), 3: Field("reason", TEXT)})),
        9: Field("subscribe", _GIVEN),
        11: Field("disconnect", _CODE),
        12: Field("refresh", _LIFETIME),
    }
)
_REPLY = Table(
    {
        1: Field("id", UINT),
        2: Field("error", Table({1: Field("code", UINT), 2: Field("message", TEXT), 3: Field("temporary", BOOL)})),
        4: Field("push", _PUSH),
        5: Field("connect", _CONNECTED),
        6: Field("subscribe", _SUBSCRIBED),
        7: Field("unsubscribe", Table({})),
        8: Field("publish", Table({})),
        9: Field("presence", Table({1: Field("presence", _INFO, "map")})),
        10: Field("presence_stats", Table({1: Field("num_clients", UINT), 2: Field("num_users", UINT)})),
        11: Field(
            "history",
            Table({1: Field("publications", _PUBLICATION, "list"), 2: Field("epoch", TEXT), 3: Field("offset", UINT)}),
        ),
        14: Field("refresh", Table({3: Field("expires", BOOL), 4: Field("ttl", UINT)})),
        15: Field("sub_refresh", _LIFETIME),
    }
)

#: The first bytes of a push within a reply, of a publication within a push, and of a publication's fields.
_IN_REPLY, _IN_PUSH, _DATA, _OFFSET = b"\x22", b"\x22", b"\x22", b"\x30"


def _info(json: bytes) -> dict[str, Any]:
    """Return what others see of a client: the texts, and the rest as JSON. It is empty where no relay has written it."""
    try:
        fields = msgspec.json.decode(json, type=dict[str, msgspec.Raw])
        texts = {name: msgspec.json.decode(fields.pop(name, b'""'), type=str) for name in ("user", "client")}
    except NOT_JSON:
        return {}
    return {**fields, **texts}


@lru_cache(maxsize=65_536)
def _channel(channel: str) -> bytes:
    """Return the channel of every push to it."""
    return b"\x12" + delimited(name_of_channel(channel).encode())


class ProtobufUpdates(Pushes):
    """Updates as pushes in Protocol Buffers; see `Pushes`."""

    def encode(self, update: Update) -> bytes:
        if update.type in (JOIN, LEAVE):
            name = name_of_channel(channel_of_members(update.channel))
            return _push({"channel": name, update.type: {"info": _info(update.data)}})
        publication = _publication(update, self.whole_values)
        push = b"".join((_channel(update.channel), _IN_PUSH, delimited(publication)))
        return delimited(_IN_REPLY + delimited(push))

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:  # noqa: ARG002 - the contract's
        return [_push(self.reset_push(channel))]


def _publication(update: Update, whole_values: bool) -> bytes:
    data = _DATA + delimited(data_of(update, whole_values=whole_values))
    return data if update.position is None else b"".join((data, _OFFSET, varint(update.position[1])))


def _push(push: dict[str, Any]) -> bytes:
    return delimited(encode(_REPLY, {"push": push}))


class ProtobufCodec:
    """Reads and writes Protocol Buffers."""

    #: An empty reply.
    ping = b"\0"
    is_binary = True
    encodings = encodings_of(ProtobufUpdates, whole_values=True)
    deltas = encodings_of(ProtobufUpdates, whole_values=False)

    def decode(self, message: str | bytes) -> list[ClientCommand]:
        """See `Codec.decode`."""
        if isinstance(message, str) or message == b"":
            raise BadMessage("text", "commands in Protocol Buffers come in binary messages")
        commands = []
        at = 0
        while at < len(message):
            data, at = read_delimited(message, at)
            try:
                commands.append(msgspec.convert(decode(_COMMAND, data), ClientCommand))
            except msgspec.ValidationError as error:
                raise BadMessage("wrong_type", f"not a command: {error}") from None
        return commands

    def reply(self, id: int, key: str, result: dict[str, Any]) -> bytes:
        """See `Codec.reply`."""
        if key == "presence":
            result = {"presence": {client: _info(bytes(info)) for client, info in result["presence"].items()}}
        return delimited(encode(_REPLY, {"id": id, key: result}))

    def error(self, id: int, code: int, message: str, temporary: bool) -> bytes:
        """See `Codec.error`."""
        error = {"code": code, "message": message, "temporary": temporary}
        return delimited(encode(_REPLY, {"id": id, "error": error}))

    def push(self, push: dict[str, Any]) -> bytes:
        """See `Codec.push`."""
        return _push(push)

    def publications(self, updates: Sequence[Update], *, whole_values: bool) -> Any:
        """See `Codec.publications`."""
        if isinstance(updates, SharedUpdates):
            return updates.encoded((ProtobufCodec, whole_values), lambda: _publications(updates, whole_values))
        return _publications(updates, whole_values)


def _publications(updates: Sequence[Update], whole_values: bool) -> EncodedList:
    return EncodedList(_publication(update, whole_values) for update in updates)
