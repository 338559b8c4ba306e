"""From updates to bytes: encodings, framings, and the batches that many clients share.

An `Encoding` turns an update into a payload, a `Framing` puts payloads on a transport's wire, and a `Format` is one encoding in
one framing. The hub encodes each update once per format, however many clients receive it.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

from relay.core.recovery import Snapshot
from relay.core.updates import Update


class Encoding(Protocol):
    """How a protocol serialises updates for one kind of subscription. All clients that get the same bytes share an instance.

    Attributes:
        stateful: The payload of an update depends on those encoded before it, so none may be skipped or encoded twice.
        whole_values: Its clients know no operations on fields, see `relay.core.whole_values`.
    """

    stateful: bool
    whole_values: bool

    def __hash__(self) -> int: ...

    def encode(self, update: Update) -> bytes:
        """Return the payload of an update; nothing where it is not for these clients."""

    def hides(self, update: Update) -> bool:
        """Whether an update is hidden from the one client of a stateful encoding, since it may not watch the task."""

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        """Return the payloads which say that updates of a channel were lost, and from where it continues."""


class Framing(NamedTuple):
    """How a transport writes payloads: `frame` makes one wire frame of a payload, `join` makes one chunk of several frames."""

    frame: Callable[[bytes], Any]
    join: Callable[[Iterable[Any]], Any]


class Format:
    """An encoding in a transport's framing."""

    __slots__ = ("encoding", "framing")

    def __init__(self, encoding: Encoding, framing: Framing) -> None:
        self.encoding = encoding
        self.framing = framing

    def message(self, update: Update) -> "Message":
        """Encode one update."""
        encoding = self.encoding
        return Message(None if encoding.stateful else update, self, self.framing.frame(encoding.encode(update)))

    def payload(self, payload: bytes) -> "Message":
        """Frame a payload that carries no update, such as an answer."""
        return Message(None, self, self.framing.frame(payload))

    def batch(self, items: "Sequence[Update | Message]") -> "Batch":
        """Encode updates into one batch. Messages among them, which must be of this format, are taken as they are."""
        encoding = self.encoding
        if encoding.stateful:
            return batch_of([item if isinstance(item, Message) else self.message(item) for item in items])
        frame, encode = self.framing.frame, encoding.encode
        frames = [frame(encode(item)) if isinstance(item, Update) else item.frame for item in items]
        return _batch(frames, items, self)


@cache
def format_of(encoding: Encoding, framing: Framing) -> Format:
    """Return the one format of a shared encoding in a framing."""
    return Format(encoding, framing)


class Message(NamedTuple):
    """One frame, and the update that it carries, if any."""

    update: Update | None
    format: Format
    frame: Any


class Batch:
    """Messages that are written together, encoded once and shared by all clients that receive them.

    Attributes:
        chunk: What the transport writes: one bytes object for sockets, a tuple of texts for plain ASGI.
        count: Number of messages.
        size: Bytes of all frames.
    """

    __slots__ = ("_format", "_items", "chunk", "count", "size")

    def __init__(
        self,
        chunk: Any,
        count: int,
        size: int,
        items: Sequence[Update | Message] | None = None,
        format: Format | None = None,
    ) -> None:
        """Make a batch of frames that are already joined.

        Args:
            chunk: The joined frames.
            count: Number of messages in it.
            size: Bytes of its frames.
            items: What it was made of, so that it can be coalesced later; None if it never is.
            format: The format of the updates among the items.
        """
        self.chunk = chunk
        self.count = count
        self.size = size
        self._items = items
        self._format = format

    def followed_by(self, other: "Batch") -> "Batch":
        """Return both as one batch, which is never coalesced."""
        return Batch(self.chunk + other.chunk, self.count + other.count, self.size + other.size)

    @property
    def messages(self) -> Sequence[Message] | None:
        """The single messages, for coalescing; None if the batch cannot be coalesced. Only queued batches are asked."""
        items, format = self._items, self._format
        if items is None or format is None:
            return None
        messages = [item if isinstance(item, Message) else format.message(item) for item in items]
        self._items = messages
        return messages


def batch_of(messages: Sequence[Message]) -> Batch:
    """Join messages of one transport into a batch, in their order."""
    return _batch([message.frame for message in messages], messages, messages[0].format)


def _batch(frames: Sequence[Any], items: Sequence[Update | Message], format: Format) -> Batch:
    sizes = list(map(len, frames))
    if 0 in sizes:  # of updates that are not for these clients
        frames, sizes = [frame for frame in frames if frame], [size for size in sizes if size]
    return Batch(format.framing.join(frames), len(frames), sum(sizes), items, format)
