"""Counts the updates that clients receive: frames are delimited exactly, and of some clients order and age are checked.

Servers differ in how they send updates: each as one WebSocket message (`messages`), several to a message or cut anywhere
between messages (`websocket_stream`), or without WebSocket as server-sent events (`byte_stream`).
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks.load import Received
from benchmarks.wire import BINARY, MARK, SEQUENCE_DIGITS, TEXT, TIME_DIGITS

if TYPE_CHECKING:
    from benchmarks.generator.client import Client

_MARK_SIZE = len(MARK)
#: An update is complete when so many bytes follow the first byte of its mark.
_AFTER = _MARK_SIZE + TIME_DIGITS
#: So many bytes at the end of a stream may be the beginning of the next update's numbers.
_TAIL = SEQUENCE_DIGITS + _MARK_SIZE - 1

#: Bytes kept of a client's last update, for the position that stands at its end.
_LAST_BYTES = 160


class Counting:
    """Counts what is in a buffer, and leaves in ``client.rest`` what is not complete.

    Args:
        on_message: Called with a message that is no update.
        on_control: Called with the first byte and the payload of a control frame.
    """

    def __init__(
        self, on_message: Callable[["Client", bytes], None], on_control: Callable[["Client", int, bytes], None]
    ) -> None:
        self.arm(Received(), keep_last=False)
        self._on_message = on_message
        self._on_control = on_control
        #: Header, size and place of the mark of the last frame that came alone: the next one is usually alike.
        self._single = (b"\0", 0, 0)
        #: The numbers of the update that was checked last: many clients receive the same one.
        self._numbers = b""
        self._sequence = self._time = 0

    def arm(self, received: Received, *, keep_last: bool) -> None:
        """From now on count what comes in ``received``; with ``keep_last`` the end of each client's last update is kept."""
        self.received = received
        self._keep_last = keep_last
        self._cpu = time.process_time()

    def _add(self, client: "Client", count: int) -> None:
        received, before = self.received, client.received
        client.received = before + count
        received.updates += count
        if before < received.expected <= before + count:
            received.done += 1
            if received.done >= received.readers:
                self.stop()

    def stop(self) -> None:
        """Every reader is done, or will not be: note the time and the CPU time since `arm`."""
        self.received.last = time.monotonic_ns()
        self.received.cpu = time.process_time() - self._cpu

    def messages(self, client: "Client", buffer: bytearray, end: int) -> None:
        """Count messages that are one update each."""
        single_header, single_size, single_mark = self._single
        if end == single_size and buffer.startswith(single_header) and buffer.startswith(MARK, single_mark):
            if client.is_sampled:
                self._check(client, buffer, (single_mark,))
            client.rest = b""
            if self._keep_last:
                client.last = bytes(buffer[max(0, end - _LAST_BYTES) : end])
            self._add(client, 1)
            return
        position = count = 0
        while not client.is_closed and (span := payload_span(buffer, position, end)) is not None:
            start, stop = span
            first = buffer[position]
            mark = buffer.find(MARK, start, stop) if first in (TEXT, BINARY) else -1
            if mark < 0:
                self._dispatch(client, first, bytes(buffer[start:stop]))
                position = stop
                continue
            size = stop - position
            run = _equal_headers(buffer, position, size, start - position, (end - position) // size)
            if client.is_sampled:
                self._check(client, buffer, _marks(buffer, position, mark, size, run))
            if size == end:
                self._single = (bytes(buffer[:start]), size, mark)
            position += size * run
            count += run
            if self._keep_last:
                client.last = bytes(buffer[max(0, position - min(size, _LAST_BYTES)) : position])
        client.rest = bytes(buffer[position:end])
        if count:
            self._add(client, count)

    def websocket_stream(self, client: "Client", buffer: bytearray, end: int) -> None:
        """Count updates in the payloads of messages, taken together."""
        data = bytes(buffer[:end])
        position, payloads = 0, [client.tail]
        while (span := payload_span(data, position, end)) is not None:
            first, payload = data[position], data[span[0] : span[1]]
            is_data = first in (TEXT, BINARY)
            if is_data:
                payloads.append(payload)
                if self._keep_last and MARK in payload:
                    client.last = payload[-_LAST_BYTES:]
            if not is_data or len(payload) < _AFTER:  # too short for an update
                self._dispatch(client, first, payload)
            position = span[1]
        client.rest = data[position:]
        client.tail = self._count_marks(client, b"".join(payloads))

    def byte_stream(self, client: "Client", buffer: bytearray, end: int) -> None:
        """Count updates in a stream of bytes without frames."""
        client.rest = b""
        client.tail = self._count_marks(client, client.tail + bytes(buffer[:end]))

    def reply(self, client: "Client", text: bytes) -> None:
        """Count the updates in a reply."""
        self._count_marks(client, text)

    def _count_marks(self, client: "Client", text: bytes) -> bytes:
        """Count the updates in a text; returns its end, from where counting goes on."""
        count = text.count(MARK)
        if not count:
            return text[-_TAIL:]
        last = text.rfind(MARK)
        is_complete = last + _AFTER <= len(text)
        count -= not is_complete
        if count:
            if client.is_sampled:
                places = [-1]
                for _ in range(count):
                    places.append(text.find(MARK, places[-1] + 1))
                self._check(client, text, places[1:])
            self._add(client, count)
        return text[-_TAIL:] if is_complete else text[max(0, last - SEQUENCE_DIGITS) :]

    def _check(self, client: "Client", buffer: bytes | bytearray, marks: Sequence[int]) -> None:
        """Check the order of updates and record their age, by the places of their marks."""
        now = time.monotonic_ns()
        add_latency = self.received.latency.add
        following = client.following
        for mark in marks:
            numbers = buffer[mark - SEQUENCE_DIGITS : mark + _AFTER]
            if numbers != self._numbers:
                self._numbers = bytes(numbers)
                self._sequence = int(numbers[:SEQUENCE_DIGITS])
                self._time = int(numbers[SEQUENCE_DIGITS + _MARK_SIZE :])
            if self._sequence != following:
                self.received.disordered += 1
            following = self._sequence + 1
            add_latency(now - self._time)
        client.following = following

    def _dispatch(self, client: "Client", first: int, payload: bytes) -> None:
        if first in (TEXT, BINARY):
            self._on_message(client, payload)
        elif first & 0x08:
            self._on_control(client, first, payload)
        else:
            self.received.fragments += 1  # no server here sends any, and its updates would not be counted


def payload_span(data: bytes | bytearray, at: int, end: int) -> tuple[int, int] | None:
    """Start and end of the payload of the server's frame that begins there; None when it is not complete."""
    if end - at < 2:
        return None
    length = data[at + 1]
    start = at + 2
    if length > 125:
        start += 2 if length == 126 else 8
        if start > end:
            return None
        length = int.from_bytes(data[at + 2 : start])
    return (start, start + length) if start + length <= end else None


def _equal_headers(buffer: bytearray, position: int, size: int, header: int, count: int) -> int:
    """How many of `count` frames in a row have the header of the one at `position`: all of them, or 1.

    If the bytes at each multiple of `size` are the same header, then each frame ends where the next one begins: this
    is an exact parse, not a guess.
    """
    stop = position + count * size
    for i in range(header if count > 1 else 0):
        if buffer[position + i : stop : size].count(buffer[position + i]) != count:
            return 1
    return count


def _marks(buffer: bytearray, position: int, first: int, size: int, run: int) -> Sequence[int]:
    """The places of the marks in a run of equally long updates: usually the same place in each."""
    places = range(first, first + size * run, size)
    if all(buffer.startswith(MARK, place) for place in places):
        return places
    # Numbers of varying width stand before the mark.
    return [buffer.find(MARK, position + i * size) for i in range(run)]
