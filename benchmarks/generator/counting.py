"""What clients have received: frames are delimited exactly, updates are counted, some are looked at.

Three ways to count, since servers differ in how they put updates on the wire: `frames`, one update to each WebSocket message;
`lines`, a message may have several, each whole; `stream`, an update may begin in one message and end in the next, and
without WebSocket (server-sent events) there are no messages at all.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks.histogram import Counts, bucket_of
from benchmarks.wire import BINARY, MARK, SEQUENCE_DIGITS, TEXT, TIME_DIGITS

if TYPE_CHECKING:
    from benchmarks.generator.clients import Client

_MARKED = len(MARK)
#: An update is whole when so many bytes follow its mark's first.
_AFTER = _MARKED + TIME_DIGITS
#: Of a stream whose last update is counted, what may be the beginning of the next one's numbers.
_TAIL = SEQUENCE_DIGITS + _MARKED - 1

#: Kept of a client's last update, for the position that stands at its end.
_LAST_BYTES = 160


class Tally:
    """What all clients of this process have received since it was armed."""

    def __init__(self) -> None:
        self.readers = 0
        self.arm(0, readers=0, keep_last=False)

    def arm(self, expected: int, *, readers: int, keep_last: bool) -> None:
        """Begin to count: so many updates are expected at each of so many readers."""
        self.expected = expected
        self.readers = readers
        self.keep_last = keep_last
        self.frames = self.done = self.disordered = self.strange = self.closed = 0
        self.last = 0
        self.cpu = time.process_time()
        self.cpu_at_end: float | None = None
        self.latency = Counts()

    @property
    def is_complete(self) -> bool:
        """Every reader has what was expected."""
        return self.done >= self.readers

    def add(self, client: "Client", count: int) -> None:
        """Count updates of a client."""
        before = client.frames
        client.frames = before + count
        self.frames += count
        if before < self.expected <= before + count:
            self.done += 1
            if self.done >= self.readers:
                self.last = time.monotonic_ns()
                self.cpu_at_end = time.process_time() - self.cpu


class Counting:
    """Counts what is in a buffer, and leaves in ``client.rest`` what is not whole.

    on_message: called with a message that is no update
    on_control: called with a control frame's first byte and payload
    """

    def __init__(
        self,
        tally: Tally,
        on_message: Callable[["Client", bytes], None],
        on_control: Callable[["Client", int, bytes], None],
    ) -> None:
        self._tally = tally
        self._on_message = on_message
        self._on_control = on_control
        #: Header, size and place of the mark of the last frame that came alone: the next one is alike, as a rule.
        self._alone = (b"\0", 0, 0)
        #: The numbers of the last update that was looked at, and what they are: many clients get the same one.
        self._numbers = b""
        self._sequence = self._time = 0
        self.ways: dict[str, Callable[[Client, bytearray, int], None]] = {
            "frames": self.frames,
            "lines": self.lines,
            "stream": self.framed_stream,
            "events": self.bare_stream,
        }

    def frames(self, client: "Client", buffer: bytearray, end: int) -> None:
        """Each message is one update."""
        header_alone, size_alone, mark_alone = self._alone
        if end == size_alone and buffer.startswith(header_alone) and buffer.startswith(MARK, mark_alone):
            if client.is_looked_at:
                self._look(client, buffer, (mark_alone,))
            if client.rest:
                client.rest = b""
            if self._tally.keep_last:
                client.last = bytes(buffer[max(0, end - _LAST_BYTES) : end])
            self._tally.add(client, 1)
            return
        position = count = 0
        while end - position >= 2:
            length = buffer[position + 1]
            header = 2
            if length > 125:
                header = 4 if length == 126 else 10
                if end - position < header:
                    break
                length = int.from_bytes(buffer[position + 2 : position + header])
            size = header + length
            if position + size > end:
                break
            first = buffer[position]
            mark = buffer.find(MARK, position + header, position + size) if first in (TEXT, BINARY) else -1
            if mark < 0:
                self._other(client, first, bytes(buffer[position + header : position + size]))
                if client.is_gone:
                    break
                position += size
                continue
            run = 1
            if end - position >= 2 * size:
                run = _equal_headers(buffer, position, size, header, (end - position) // size)
            if client.is_looked_at:
                self._look(client, buffer, _marks(buffer, mark, size, run))
            if size == end:
                self._alone = (bytes(buffer[:header]), size, mark)
            position += size * run
            count += run
            if self._tally.keep_last:
                client.last = bytes(buffer[max(0, position - min(size, _LAST_BYTES)) : position])
        client.rest = bytes(buffer[position:end])
        if count:
            self._tally.add(client, count)

    def lines(self, client: "Client", buffer: bytearray, end: int) -> None:
        """A message has any number of whole updates."""
        client.rest, messages = self._split(client, bytes(buffer[:end]))
        for message in messages:
            if MARK in message:
                self._count_marks(client, message)
            else:
                self._on_message(client, message)

    def framed_stream(self, client: "Client", buffer: bytearray, end: int) -> None:
        """Updates in a stream of bytes which messages cut anywhere."""
        client.rest, messages = self._split(client, bytes(buffer[:end]))
        client.tail = self._count_marks(client, client.tail + b"".join(messages))

    def bare_stream(self, client: "Client", buffer: bytearray, end: int) -> None:
        """Updates in a stream of bytes without any framing that matters here."""
        client.rest = b""
        client.tail = self._count_marks(client, client.tail + bytes(buffer[:end]))

    def _split(self, client: "Client", data: bytes) -> tuple[bytes, list[bytes]]:
        messages = []
        position = 0
        while (frame := next_frame(data, position)) is not None:
            first, payload, position = frame
            if first in (TEXT, BINARY):
                messages.append(payload)
            else:
                self._other(client, first, payload)
        return data[position:], messages

    def _count_marks(self, client: "Client", text: bytes) -> bytes:
        """Count the updates in a text; returns its end, from where counting goes on."""
        count = text.count(MARK)
        if not count:
            return text[-_TAIL:]
        last = text.rfind(MARK)
        is_whole = last + _AFTER <= len(text)
        count -= not is_whole
        if client.is_looked_at and count:
            places = []
            place = -1
            for _ in range(count):
                place = text.find(MARK, place + 1)
                places.append(place)
            self._look(client, text, places)
        if count:
            self._tally.add(client, count)
        return text[-_TAIL:] if is_whole else text[max(0, last - SEQUENCE_DIGITS) :]

    def _look(self, client: "Client", buffer: bytes | bytearray, marks: Sequence[int]) -> None:
        """Check the order of updates, and their age, by where their marks are."""
        now = time.monotonic_ns()
        tally = self._tally
        buckets = tally.latency.buckets
        following = client.following
        for mark in marks:
            numbers = buffer[mark - SEQUENCE_DIGITS : mark + _AFTER]
            if numbers != self._numbers:
                self._numbers = bytes(numbers)
                self._sequence = int(numbers[:SEQUENCE_DIGITS])
                self._time = int(numbers[SEQUENCE_DIGITS + _MARKED :])
            if self._sequence != following:
                tally.disordered += 1
            following = self._sequence + 1
            bucket = bucket_of(now - self._time)
            buckets[bucket] = buckets.get(bucket, 0) + 1
        client.following = following

    def _other(self, client: "Client", first: int, payload: bytes) -> None:
        if first in (TEXT, BINARY):
            self._on_message(client, payload)
        elif first & 0x08:
            self._on_control(client, first, payload)
        else:
            self._tally.strange += 1  # a fragment: no server here sends any, and it would not be counted


def _equal_headers(buffer: bytearray, position: int, size: int, header: int, most: int) -> int:
    """How many frames in a row have the header of the one at `position`: all `most` of them, or 1.

    If the bytes at each multiple of `size` are the same header, then each frame ends where the next one begins: this
    is an exact parse, not a guess.
    """
    stop = position + most * size
    for i in range(header):
        if buffer[position + i : stop : size].count(buffer[position + i]) != most:
            return 1
    return most


def _marks(buffer: bytearray, first: int, size: int, run: int) -> Sequence[int]:
    """Where the marks of a run of equally long updates are: all at the place of the first, as a rule."""
    places = range(first, first + size * run, size)
    if all(buffer.startswith(MARK, place) for place in places):
        return places
    start = first - first % size  # numbers of varying width stand before the mark
    return [buffer.find(MARK, start + i * size) for i in range(run)]


def next_frame(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    """First byte and payload of the server's frame that begins there, and where the next one does; None if not whole."""
    if len(data) - at < 2:
        return None
    length = data[at + 1]
    start = at + 2
    if length > 125:
        start += 2 if length == 126 else 8
        if len(data) < start:
            return None
        length = int.from_bytes(data[at + 2 : start])
    end = start + length
    if len(data) < end:
        return None
    return data[at], data[start:end], end
