"""What waits for one client: bounded in messages, bytes and age, and folded before it is given up."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from relay.core import taskstate
from relay.core.closecodes import Close
from relay.core.errors import BadMessage
from relay.core.recovery import Snapshot
from relay.core.updates import Update


class Encoding(Protocol):
    """How a protocol words updates, for one kind of subscription. An instance is shared by all clients that it is the
    same for.

    stateful: what it says of an update depends on those before it, so that none may be left out or said anew
    """

    stateful: bool

    def __hash__(self) -> int: ...

    def encode(self, update: Update) -> bytes:
        """The payload of an update."""

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        """The payloads that tell that a channel's line is broken, and how it goes on."""


class Framing(NamedTuple):
    """How a transport puts payloads on its wire: one in the form that goes out, and several of those as one chunk."""

    frame: Callable[[bytes], Any]
    join: Callable[[Iterable[Any]], Any]


class Format:
    """An encoding in a transport's framing. The hub encodes an update once for each."""

    __slots__ = ("encoding", "framing")

    def __init__(self, encoding: Encoding, framing: Framing) -> None:
        self.encoding = encoding
        self.framing = framing

    def message(self, update: Update) -> "Message":
        """An update, ready to be written."""
        encoding = self.encoding
        return Message(None if encoding.stateful else update, self, self.framing.frame(encoding.encode(update)))

    def batch(self, items: "Sequence[Update | Message]") -> "Batch":
        """One batch of several updates, and messages of this format, in their order."""
        encoding = self.encoding
        if encoding.stateful:
            return batch_of([item if isinstance(item, Message) else self.message(item) for item in items])
        frame, encode = self.framing.frame, encoding.encode
        frames = [frame(encode(item)) if isinstance(item, Update) else item.frame for item in items]
        return Batch(self.framing.join(frames), len(frames), sum(map(len, frames)), items, self)

    def payload(self, payload: bytes) -> "Message":
        """Something that is no update, ready to be written."""
        return Message(None, self, self.framing.frame(payload))


class Message(NamedTuple):
    """One frame, and the update that it carries, if it does."""

    update: Update | None
    format: Format
    frame: Any


class Bounds(NamedTuple):
    """How much may wait for one client.

    fold: messages, from which on updates of one task are folded into one
    messages, size, age: hard bounds, in messages, bytes, and seconds since the oldest was queued
    """

    fold: int
    messages: int
    size: int
    age: float


class Batch:
    """Messages that go to one or many clients together, encoded once and shared by all of them.

    ``chunk`` is what the transport writes: one bytes object for sockets, a tuple of texts for plain ASGI. ``count`` and
    ``size`` are its messages and bytes.

    items, format: what it was made of; updates among them are of this format. None where nothing in it can be folded
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
        self.chunk = chunk
        self.count = count
        self.size = size
        self._items = items
        self._format = format

    @property
    def messages(self) -> Sequence[Message] | None:
        """What is in it, to be folded; None where nothing can be. Only what waits for a client is ever asked for it."""
        items, format = self._items, self._format
        if items is None or format is None:
            return None
        messages = [item if isinstance(item, Message) else format.message(item) for item in items]
        self._items = messages
        return messages


def batch_of(messages: Sequence[Message]) -> Batch:
    """One batch of several messages, in their order; all must be of the same transport."""
    frames = [message.frame for message in messages]
    format = messages[0].format
    return Batch(format.framing.join(frames), len(frames), sum(map(len, frames)), messages, format)


class Outbox:
    """The queue of one client. It counts, folds and judges; who drops the client is not its business.

    The head may be partly written: ``written`` is how many bytes of its chunk the socket took. ``delivered`` counts the
    messages that were popped, ``folded`` those that were folded into others.
    """

    __slots__ = ("_bounds", "_fold_at", "_queue", "count", "delivered", "folded", "size", "written")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._queue: deque[tuple[Batch, float]] = deque()
        self._fold_at = bounds.fold
        self.count = 0
        self.size = 0
        self.written = 0
        self.delivered = 0
        self.folded = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def push(self, batch: Batch, now: float) -> None:
        """Queue a batch; past the soft bound fold what can be folded. It is never refused: ask `overflow` afterwards."""
        self._append(batch, now)
        if self.count > self._fold_at and len(self._queue) > 1:
            self._fold(now)
            # What could not be folded is not looked at again before there is as much again.
            self._fold_at = max(self._bounds.fold, 2 * self.count)

    def _append(self, batch: Batch, now: float) -> None:
        self._queue.append((batch, now))
        self.count += batch.count
        self.size += batch.size

    def _fold(self, now: float) -> None:
        """Fold everything behind the head, which may be under way. A folded update is as fresh as its last part."""
        head, since = self._queue.popleft()
        waiting = list(self._queue)
        before = self.count
        self._queue.clear()
        self.count = self.size = 0
        self._append(head, since)
        run: list[Message] = []
        oldest = now
        for batch, queued in waiting:
            if batch.messages is None:  # a pong or a ping: its place among the updates does not matter
                self._append(batch, queued)
            else:
                if not any(message.update is not None for message in batch.messages):
                    oldest = min(oldest, queued)
                run.extend(batch.messages)
        if run:
            self._append(batch_of(folded(run)), oldest)
        self.folded += before - self.count

    def head(self) -> Batch:
        """The batch that is to be written next; IndexError when nothing waits."""
        return self._queue[0][0]

    def heads(self, most: int) -> Sequence[Batch]:
        """Up to ``most`` batches from the front."""
        return [self._queue[i][0] for i in range(min(most, len(self._queue)))]

    def pop(self) -> Batch:
        """The head was written whole: remove it."""
        batch, _ = self._queue.popleft()
        self.count -= batch.count
        self.size -= batch.size
        self.written = 0
        self.delivered += batch.count
        if not self._queue:
            self._fold_at = self._bounds.fold
        return batch

    def clear(self) -> int:
        """Give up all that waits; returns how many messages that were, the partly written ones included."""
        lost = self.count
        self._queue.clear()
        self.count = self.size = self.written = 0
        return lost

    def overflow(self) -> Close | None:
        """The bound in messages or bytes that is passed, if one is."""
        if self.count > self._bounds.messages:
            return Close.SLOW_MESSAGES
        if self.size - self.written > self._bounds.size:
            return Close.SLOW_BYTES
        return None

    def overdue(self, now: float) -> Close | None:
        """SLOW_AGE when the oldest has waited longer than the bound."""
        if self._queue and now - self._queue[0][1] > self._bounds.age:
            return Close.SLOW_AGE
        return None


def folded(messages: Sequence[Message]) -> list[Message]:
    """The same messages with the updates of each task folded into one, at the place and the position of the last.

    A terminal update is never folded away: it stays a message of its own, and nothing is folded across it, nor across an
    answer. What is no task update stays as it is.
    """
    runs: list[list[Message]] = []  # each becomes one message
    open_runs: dict[tuple[str, Format], list[Message]] = {}
    last_places: dict[int, int] = {}
    for place, message in enumerate(messages):
        update = message.update
        if update is None or update.type != "task_update":
            if update is None:  # it may tell of a new state, over which older fields must not be laid
                open_runs.clear()
            run = [message]
            runs.append(run)
        elif taskstate.is_terminal(update.data):
            open_runs.pop((update.channel, message.format), None)
            run = [message]
            runs.append(run)
        else:
            key = (update.channel, message.format)
            existing = open_runs.get(key)
            if existing is None:
                run = open_runs[key] = []
                runs.append(run)
            else:
                run = existing
            run.append(message)
        last_places[id(run)] = place
    runs.sort(key=lambda run: last_places[id(run)])
    return [message for run in runs for message in _folded_run(run)]


def _folded_run(run: list[Message]) -> list[Message]:
    last = run[-1]
    if len(run) == 1 or last.update is None:
        return run
    try:
        data = taskstate.fold(message.update.data for message in run if message.update is not None)
    except BadMessage:  # so many fields, or levels, that they cannot be folded: the hard bounds decide
        return run
    update = last.update
    # One that was not recorded has no position; the client then stands where the last recorded one was.
    known = [message.update.position for message in run if message.update is not None and message.update.position]
    position = known[-1] if known else None
    return [last.format.message(Update(update.channel, update.type, data, update.heard, position))]
