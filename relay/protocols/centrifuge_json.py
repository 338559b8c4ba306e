"""The Centrifuge protocol in JSON: commands that are separated by line breaks, one reply or push in each message."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from relay.core.client_channels import name_of_channel
from relay.core.errors import BadMessage
from relay.core.membership import JOIN, LEAVE, channel_of_members
from relay.core.recovery import Snapshot
from relay.core.shared_updates import SharedUpdates
from relay.core.updates import Update
from relay.protocols.centrifuge_commands import ClientCommand, Pushes, data_of, encodings_of, one_line

_decode_command = msgspec.json.Decoder(ClientCommand).decode
_json = msgspec.json.Encoder().encode


@lru_cache(maxsize=65_536)
def _prefix(channel: str) -> bytes:
    """Return the beginning of every push to a channel."""
    return b'{"push":{"channel":%b,' % _json(name_of_channel(channel))


def _data(update: Update, whole_values: bool) -> bytes:
    data = data_of(update, whole_values=whole_values)
    return bytes(one_line(data)) if b"\n" in data or b"\r" in data else data


def _publication(update: Update, whole_values: bool) -> bytes:
    data = _data(update, whole_values)
    if update.position is None:
        return b'{"data":%b}' % data
    return b'{"data":%b,"offset":%d}' % (data, update.position[1])


class JsonUpdates(Pushes):
    """Updates as pushes in JSON; see `Pushes`."""

    def encode(self, update: Update) -> bytes:
        if update.type in (JOIN, LEAVE):
            prefix = _prefix(channel_of_members(update.channel))
            return b'%b"%b":{"info":%b}}}' % (prefix, update.type.encode(), one_line(update.data))
        return b'%b"pub":%b}}' % (_prefix(update.channel), _publication(update, self.whole_values))

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:  # noqa: ARG002 - the contract's
        return [_json({"push": self.reset_push(channel)})]


class JsonCodec:
    """Reads and writes JSON."""

    ping = b"{}"
    is_binary = False
    encodings = encodings_of(JsonUpdates, whole_values=True)
    deltas = encodings_of(JsonUpdates, whole_values=False)

    def decode(self, message: str | bytes) -> list[ClientCommand]:
        """See `Codec.decode`."""
        if isinstance(message, bytes):
            raise BadMessage("binary", "commands in JSON come in text messages")
        try:
            return [_decode_command(line) for line in message.removesuffix("\n").split("\n")]
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise BadMessage("not_json", f"not a command: {error}") from None

    def reply(self, id: int, key: str, result: dict[str, Any]) -> bytes:
        """See `Codec.reply`."""
        return _json({"id": id, key: result})

    def error(self, id: int, code: int, message: str, temporary: bool) -> bytes:
        """See `Codec.error`."""
        more = {"temporary": True} if temporary else {}
        return _json({"id": id, "error": {"code": code, "message": message, **more}})

    def push(self, push: dict[str, Any]) -> bytes:
        """See `Codec.push`."""
        return _json({"push": push})

    def publications(self, updates: Sequence[Update], *, whole_values: bool) -> Any:
        """See `Codec.publications`."""
        if isinstance(updates, SharedUpdates):
            return updates.encoded((JsonCodec, whole_values), lambda: _publications(updates, whole_values))
        return _publications(updates, whole_values)


def _publications(updates: Sequence[Update], whole_values: bool) -> msgspec.Raw:
    return msgspec.Raw(b"[%b]" % b",".join(_publication(update, whole_values) for update in updates))
