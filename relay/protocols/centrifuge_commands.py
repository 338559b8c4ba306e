"""Commands of the Centrifuge client protocol, as both of its formats carry them. docs/centrifuge.md names what is served."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from relay.core.batches import Encoding
from relay.core.client_channels import name_of_channel
from relay.core.closecodes import Close
from relay.core.updates import Position, Update
from relay.core.whole_values import plain_data
from relay.protocols.centrifuge_codes import INSUFFICIENT_STATE

#: Longest epoch that a client may send, and largest offset: what is beyond was never given out.
_MAX_EPOCH = 64
_MAX_OFFSET = 2**53

#: A value that a message does not have.
ABSENT = msgspec.Raw()


class Since(msgspec.Struct, gc=False):
    """A position in a request for history."""

    offset: int = 0
    epoch: str = ""


class Recovery(msgspec.Struct, gc=False):
    """What a client asks of a subscription that its token gives it."""

    recover: bool = False
    offset: int = 0
    epoch: str = ""


class ConnectRequest(msgspec.Struct, gc=False):
    """``connect``."""

    token: str = ""
    subs: dict[str, Recovery] = {}
    name: str = ""


class SubscribeRequest(msgspec.Struct, gc=False):
    """``subscribe``."""

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    data: msgspec.Raw = ABSENT
    recoverable: bool = False
    positioned: bool = False
    join_leave: bool = False
    delta: str = ""
    tf: Any = None
    flag: int = 0
    type: int = 0


class ChannelRequest(msgspec.Struct, gc=False):
    """``unsubscribe``, ``presence`` and ``presence_stats``."""

    channel: str = ""


class PublishRequest(msgspec.Struct, gc=False):
    """``publish``."""

    channel: str = ""
    data: msgspec.Raw = ABSENT
    type: int = 0


class HistoryRequest(msgspec.Struct, gc=False):
    """``history``."""

    channel: str = ""
    limit: int = 0
    since: Since | None = None
    reverse: bool = False


class RpcRequest(msgspec.Struct, gc=False):
    """``rpc``."""

    method: str = ""


class SendRequest(msgspec.Struct, gc=False):
    """``send``."""


class RefreshRequest(msgspec.Struct, gc=False):
    """``refresh``."""

    token: str = ""


class SubRefreshRequest(msgspec.Struct, gc=False):
    """``sub_refresh``."""

    channel: str = ""
    token: str = ""


class ClientCommand(msgspec.Struct, gc=False):
    """One command: an id, and one of the others. What has neither answers a ping."""

    id: int = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: ChannelRequest | None = None
    publish: PublishRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    history: HistoryRequest | None = None
    ping: Any = None
    send: SendRequest | None = None
    rpc: RpcRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


def position_of(offset: int, epoch: str) -> Position | None:
    """Return the position that a client gives; None where no relay can have given it out."""
    return Position(epoch, offset) if len(epoch) <= _MAX_EPOCH and 0 <= offset <= _MAX_OFFSET else None


class Encodings(NamedTuple):
    """How updates are serialised.

    Attributes:
        own: For subscriptions that clients have asked for.
        given: For those that their tokens give them: updates that were lost end the connection instead of the subscription.
    """

    own: Encoding
    given: Encoding


class Pushes:
    """What the encodings of both formats have in common: updates are pushes, which all clients share.

    Args:
        whole_values: The clients have no operations on fields.
        is_given: The subscriptions are those that tokens give.
    """

    stateful = False

    def __init__(self, *, whole_values: bool, is_given: bool) -> None:
        self.whole_values = whole_values
        self._is_given = is_given

    def hides(self, update: Update) -> bool:  # noqa: ARG002 - the contract's
        """Leave out nothing."""
        return False

    def reset_push(self, channel: str) -> dict[str, Any]:
        """Return the push which says that updates of a channel were lost."""
        if self._is_given:
            close = Close.INSUFFICIENT_STATE
            return {"disconnect": {"code": close.code, "reason": close.reason}}
        code, reason = INSUFFICIENT_STATE
        return {"channel": name_of_channel(channel), "unsubscribe": {"code": code, "reason": reason}}


def encodings_of(kind: Callable[..., Encoding], *, whole_values: bool) -> Encodings:
    """Return the encodings of a format.

    Args:
        kind: Makes each of them, as `Pushes`.
        whole_values: The clients have no operations on fields.
    """
    return Encodings(*(kind(whole_values=whole_values, is_given=is_given) for is_given in (False, True)))


class Codec(Protocol):
    """A format of the protocol.

    Attributes:
        ping: A ping, which has no content.
        is_binary: Its messages are binary.
        encodings: Of clients that get whole values.
        deltas: Of clients that take operations on fields.
    """

    ping: bytes
    is_binary: bool
    encodings: Encodings
    deltas: Encodings

    def decode(self, message: str | bytes) -> list[ClientCommand]:
        """Return the commands in a message.

        Raises:
            BadMessage: It cannot be read.
        """

    def reply(self, id: int, key: str, result: dict[str, Any]) -> bytes:
        """Return a reply. Values that are JSON are `msgspec.Raw`."""

    def error(self, id: int, code: int, message: str, temporary: bool) -> bytes:
        """Return an error reply."""

    def push(self, push: dict[str, Any]) -> bytes:
        """Return a push."""

    def publications(self, updates: Sequence[Update], *, whole_values: bool) -> Any:
        """Return publications as `reply` takes them. Of updates that clients share they are made once."""


def data_of(update: Update, *, whole_values: bool) -> bytes:
    """Return the data of an update for clients that have operations on fields, or none."""
    return plain_data(update) if update.has_operations and whole_values else update.data


def one_line(data: bytes) -> msgspec.Raw:
    """Return JSON without line breaks, which can only be white space in it, and end a message of this protocol."""
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\n", b" ").replace(b"\r", b" ")
    return msgspec.Raw(data)
