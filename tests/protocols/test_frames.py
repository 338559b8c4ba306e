"""Frames out, frames in: beside wsproto's client, and fed in every portion."""

import tracemalloc
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.events import Event as ClientEvent
from wsproto.extensions import PerMessageDeflate

from relay.core.closecodes import Close
from relay.protocols.connection import connection_of
from relay.protocols.frames import (
    HEARTBEAT_FRAME,
    ControlReply,
    Event,
    FrameReader,
    PeerClosed,
    Received,
    Violation,
    binary_frame,
    close_frame,
    end_of_frame,
    pong_frame,
    text_frame,
)
from tests.harness import masked_frame, masked_text

FIN, TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG, RSV1 = 0x80, 1, 2, 0, 8, 9, 10, 0x40

#: Around the places where a frame's header changes its form.
LENGTHS = [0, 1, 124, 125, 126, 127, 65534, 65535, 65536]


def deflate() -> PerMessageDeflate:
    """As it is after the client's offer was accepted."""
    extension = PerMessageDeflate()
    assert extension.accept("permessage-deflate; client_no_context_takeover") is not None
    return extension


def client(deflated: bool = False) -> Connection:
    return Connection(ConnectionType.CLIENT, [deflate()] if deflated else [])


def reader(max_message: int = 1 << 20, deflated: bool = False) -> FrameReader:
    return FrameReader(max_message, connection_of("permessage-deflate" if deflated else "", max_message))


def fed(reader: FrameReader, data: bytes, step: int | None = None) -> list[Event]:
    step = step or max(len(data), 1)
    return [event for start in range(0, len(data), step) for event in reader.receive(data[start : start + step])]


def read_by_client(data: bytes) -> list[ClientEvent]:
    """The client's events, with the pieces of a message that wsproto hands out put together."""
    connection = client()
    connection.receive_data(data)
    return list(connection.events())


# What the server writes.

payloads = st.one_of(st.text(max_size=200), st.sampled_from(LENGTHS).map(lambda length: "x" * length))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["text", "binary", "heartbeat", "pong"]), payloads), max_size=5))
def test_a_client_reads_what_the_server_writes(script: list[tuple[str, str]]) -> None:
    chunk, expected = b"", list[ClientEvent]()
    for kind, text in script:
        data = text.encode()
        if kind == "text":
            chunk += text_frame(data)
            expected.append(TextMessage(text))
        elif kind == "binary":
            chunk += binary_frame(data)
            expected.append(BytesMessage(data))
        elif kind == "heartbeat":
            chunk += HEARTBEAT_FRAME
            expected.append(Ping(b""))
        else:
            chunk += pong_frame(data[:125])
            expected.append(Pong(data[:125]))
    assert read_by_client(chunk) == expected


def test_uncompressed_frames_are_read_on_a_compressed_connection() -> None:
    connection = client(deflated=True)
    connection.receive_data(text_frame(b"plain"))
    assert list(connection.events()) == [TextMessage("plain")]


@settings(deadline=None)
@given(st.lists(st.sampled_from(LENGTHS) | st.integers(0, 300), min_size=1, max_size=4), st.data())
def test_the_end_of_the_frame_an_offset_lies_in(lengths: list[int], data: st.DataObject) -> None:
    chunk, ends = b"", [0]
    for length in lengths:
        chunk += text_frame(b"x" * length)
        ends.append(len(chunk))
    offset = data.draw(st.integers(0, len(chunk)) | st.sampled_from(ends))
    assert end_of_frame(chunk, offset) == min(end for end in ends if end >= offset)


@settings(deadline=None)
@given(st.sampled_from([1000, 1001, 1011, 4008, 4999]), st.text(max_size=200))
def test_a_close_frame_has_its_code_and_as_much_of_its_reason_as_goes_in(code: int, reason: str) -> None:
    frame = close_frame(code, reason)
    assert len(frame) <= 2 + 125
    (event,) = read_by_client(frame)
    assert isinstance(event, CloseConnection)
    told = event.reason or ""
    assert event.code == code
    assert reason.startswith(told)
    if told != reason:  # not even one more character would have gone in
        assert len(reason[: len(told) + 1].encode()) > 123


@pytest.mark.parametrize("code", [1005, 1006])
def test_codes_that_must_not_be_sent_are_not(code: int) -> None:
    assert read_by_client(close_frame(code, "gone")) == [CloseConnection(1005, "")]


# What the client writes.

pieces = st.lists(st.text(max_size=40) | st.sampled_from(["é" * 100, "x" * 70_000]), min_size=1, max_size=4)
messages = st.lists(st.tuples(st.booleans(), pieces, st.booleans()), max_size=4)


@settings(deadline=None)
@given(messages, st.booleans(), st.booleans(), st.data())
def test_messages_arrive_whole_however_they_are_cut(
    messages: list[tuple[bool, list[str], bool]], deflated: bool, closed: bool, data: st.DataObject
) -> None:
    """Cut into frames by the client, with pings between them, and into portions by the network."""
    sender, stream = client(deflated), b""
    expected: list[Event] = []
    for is_text, parts, pinging in messages:
        for number, part in enumerate(parts):
            final = number == len(parts) - 1
            if is_text:
                stream += sender.send(TextMessage(part, message_finished=final))
            else:
                stream += sender.send(BytesMessage(part.encode(), message_finished=final))
            if pinging and not final:
                stream += sender.send(Ping(b"p%d" % number))
                stream += sender.send(Pong(b""))
                expected.append(ControlReply(pong_frame(b"p%d" % number)))
        whole = "".join(parts)
        expected.append(Received(whole if is_text else whole.encode()))
    if closed:
        stream += sender.send(CloseConnection(4321, "bye")) + b"never read"
        expected.append(PeerClosed(4321, "bye"))
    assert fed(reader(deflated=deflated), stream) == expected
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    target = reader(deflated=deflated)
    portions = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [event for portion in portions if portion for event in target.receive(portion)] == expected
    if len(stream) < 2000:
        assert fed(reader(deflated=deflated), stream, step=1) == expected


def frame(first: int, payload: bytes = b"") -> bytes:
    return masked_frame(first, payload)


def header_only(first: int, length: int) -> bytes:
    """The beginning of a frame that claims this length."""
    return bytes((first, 0xFF)) + length.to_bytes(8) + bytes(4)


VIOLATIONS = {
    "not masked": (text_frame(b"hello"), Close.PROTOCOL_ERROR),
    "reserved bit": (frame(FIN | 0x40 | TEXT, b"x"), Close.PROTOCOL_ERROR),
    "unknown opcode": (frame(FIN | 3), Close.PROTOCOL_ERROR),
    "unknown control opcode": (frame(FIN | 11), Close.PROTOCOL_ERROR),
    "continuation of nothing": (frame(FIN | CONTINUATION, b"x"), Close.PROTOCOL_ERROR),
    "message within a message": (frame(TEXT, b"x") + frame(FIN | TEXT, b"y"), Close.PROTOCOL_ERROR),
    "fragmented ping": (frame(PING), Close.PROTOCOL_ERROR),
    "ping too long": (frame(FIN | PING, b"x" * 126), Close.PROTOCOL_ERROR),
    "length not in its shortest form": (bytes((0x81, 0xFE, 0, 5, 0, 0, 0, 0)) + b"hello", Close.PROTOCOL_ERROR),
    "length of 64 bits": (header_only(FIN | TEXT, 1 << 63), Close.PROTOCOL_ERROR),
    "close with one byte": (frame(FIN | CLOSE, b"\x03"), Close.PROTOCOL_ERROR),
    "close with a code that must not be sent": (frame(FIN | CLOSE, (1005).to_bytes(2)), Close.PROTOCOL_ERROR),
    "close with code 0": (frame(FIN | CLOSE, bytes(2)), Close.PROTOCOL_ERROR),
    "close with an invalid reason": (frame(FIN | CLOSE, (1000).to_bytes(2) + b"\xff"), Close.INVALID_TEXT),
    "invalid text": (masked_text(b"caf\xe9"), Close.INVALID_TEXT),
    "text cut in a character": (masked_text("é".encode()[:1]), Close.INVALID_TEXT),
    "a surrogate": (masked_text(b"\xed\xa0\x80"), Close.INVALID_TEXT),
    "invalid in the second fragment": (frame(TEXT, b"\xc3") + frame(FIN | CONTINUATION, b"("), Close.INVALID_TEXT),
}


@pytest.mark.parametrize(("data", "close"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_ends_the_reading_with_its_code(data: bytes, close: Close) -> None:
    before = masked_text(b"ok")
    for step in (None, 1):
        target = reader()
        assert fed(target, before + data + masked_text(b"after"), step) == [Received("ok"), Violation(close)]
        assert fed(target, masked_text(b"after")) == []
        assert list(target.receive(b"")) == []


def test_a_compressed_frame_is_a_violation_where_nothing_was_negotiated_and_garbage_is_everywhere() -> None:
    compressed = client(deflated=True).send(TextMessage("hello"))
    assert fed(reader(), compressed) == [Violation(Close.PROTOCOL_ERROR)]
    assert fed(reader(deflated=True), compressed) == [Received("hello")]
    garbage = frame(FIN | RSV1 | TEXT, b"\xff\xff\xff\xff")
    assert fed(reader(deflated=True), garbage) == [Violation(Close.INVALID_TEXT)]
    compressed_ping = frame(FIN | RSV1 | PING, b"")
    assert fed(reader(deflated=True), compressed_ping) == [Violation(Close.PROTOCOL_ERROR)]


def test_the_client_hangs_up_once() -> None:
    target = reader()
    assert list(target.receive(b"")) == [PeerClosed(1006)]
    assert list(target.receive(b"")) == []


def test_after_the_close_frame_comes_nothing() -> None:
    target = reader()
    assert fed(target, frame(FIN | CLOSE, (1000).to_bytes(2)) + masked_text(b"x")) == [PeerClosed(1000)]
    assert fed(target, masked_text(b"x")) == []
    assert list(target.receive(b"")) == []
    assert fed(reader(), frame(FIN | CLOSE)) == [PeerClosed(1005)]


def fragments(payload: str, size: int, deflated: bool) -> bytes:
    sender = client(deflated)
    starts = range(0, len(payload), size)
    return b"".join(
        sender.send(TextMessage(payload[at : at + size], message_finished=at + size >= len(payload))) for at in starts
    )


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("size", [1000, 7])
def test_the_limit_is_in_bytes_of_the_whole_inflated_message(size: int, deflated: bool) -> None:
    just, over = "é" * 64, "é" * 64 + "x"
    target = reader(max_message=128, deflated=deflated)
    for _ in range(2):  # every message is counted from the start
        assert fed(target, fragments(just, size, deflated), step=5) == [Received(just)]
        target = reader(max_message=128, deflated=deflated)
    assert fed(target, fragments(over, size, deflated), step=5) == [Violation(Close.TOO_BIG)]
    assert fed(target, masked_text(b"after")) == []


def test_the_limit_counts_each_message_for_itself() -> None:
    target = reader(max_message=10)
    assert fed(target, masked_text(b"0123456789") * 3) == [Received("0123456789")] * 3


def test_a_message_too_long_is_refused_before_it_is_there() -> None:
    target = reader(max_message=1000)
    assert fed(target, header_only(FIN | TEXT, 1 << 40) + b"x" * 1000) == []
    assert fed(target, b"x") == [Violation(Close.TOO_BIG)]


def test_a_bomb_is_stopped_before_it_fills_the_memory() -> None:
    """200 MB in 200 KB, read in the portions in which a transport reads."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush(zlib.Z_SYNC_FLUSH)
    bomb = frame(FIN | RSV1 | BINARY, packed[:-4])
    assert len(bomb) < 300_000
    target = reader(max_message=65536, deflated=True)
    tracemalloc.start()
    try:
        events: list[Event] = []
        for start in range(0, len(bomb), 4096):
            events += target.receive(bomb[start : start + 4096])
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert events == [Violation(Close.TOO_BIG)]


def test_a_bomb_that_comes_at_once_is_not_inflated_either() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush(zlib.Z_SYNC_FLUSH)
    bomb = frame(FIN | RSV1 | BINARY, packed[:-4])
    target = reader(max_message=65536, deflated=True)
    tracemalloc.start()
    try:
        assert list(target.receive(bomb)) == [Violation(Close.TOO_BIG)]
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def final_stream(text: bytes) -> bytes:
    """A deflate stream whose last block has BFINAL set, as of a sender that finishes where others flush."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(text) + packer.flush(zlib.Z_FINISH)


@pytest.mark.parametrize("padding", [b"", b"\0"], ids=["bare", "padded as RFC 7692 section 7.2.3.4 has it"])
def test_a_block_that_ends_its_deflate_stream_is_legal(padding: bytes) -> None:
    target = reader(deflated=True)
    for text in ("Hello", "hello " * 100, "Hello"):
        message = frame(FIN | RSV1 | TEXT, final_stream(text.encode()) + padding)
        assert fed(target, message) == [Received(text)]
        assert fed(target, message, step=3) == [Received(text)]
    two = frame(RSV1 | TEXT, final_stream(b"a" * 50)) + frame(FIN | CONTINUATION, final_stream(b"b" * 50) + padding)
    assert fed(target, two) == [Received("a" * 50 + "b" * 50)]
    just = reader(max_message=100, deflated=True)
    assert fed(just, two) == [Received("a" * 50 + "b" * 50)]
    assert fed(reader(max_message=99, deflated=True), two) == [Violation(Close.TOO_BIG)]


def test_streams_without_number_in_one_message_are_a_violation() -> None:
    """Each would cost a decompressor, and so ten times what an ordinary block costs."""
    assert fed(reader(deflated=True), frame(FIN | RSV1 | TEXT, b"\3\0" * 10_000)) == [Violation(Close.INVALID_TEXT)]


def test_empty_fragments_without_end_take_no_memory() -> None:
    target = reader(max_message=100)
    fed(target, frame(TEXT, b"a"))
    tracemalloc.start()
    try:
        assert fed(target, frame(CONTINUATION) * 20_000, step=4096) == []
        assert tracemalloc.get_traced_memory()[0] < 1 << 16
    finally:
        tracemalloc.stop()
    assert target.in_message
    assert fed(target, frame(FIN | CONTINUATION, b"b")) == [Received("ab")]
    assert not target.in_message


@pytest.mark.parametrize(
    ("code", "is_legal"),
    [(1000, True), (1001, True), (1011, True), (1014, True), (3000, True), (4999, True)]
    + [(code, False) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000)],
)
def test_close_codes_are_those_that_may_be_sent(code: int, is_legal: bool) -> None:
    expected = PeerClosed(code, "why") if is_legal else Violation(Close.PROTOCOL_ERROR)
    assert fed(reader(), frame(FIN | CLOSE, code.to_bytes(2) + b"why")) == [expected]
    assert fed(reader(), frame(FIN | CLOSE, (1014).to_bytes(2) + b"\xff")) == [Violation(Close.INVALID_TEXT)]


def midway(data: bytes, deflated: bool = False) -> list[bool]:
    """Whether a reader is midway, after each byte."""
    target = reader(deflated=deflated)
    answers = []
    for start in range(len(data)):
        fed(target, data[start : start + 1])
        answers.append(target.in_message)
    return answers


def test_midway_is_from_the_first_byte_of_a_message_to_its_last() -> None:
    assert reader().in_message is False
    for data in (
        masked_text(b"hello"),
        masked_text(b""),
        frame(FIN | PING, b"x"),
        frame(TEXT) + frame(FIN | CONTINUATION),
        frame(TEXT, b"a") + frame(FIN | PING) + frame(CONTINUATION, b"") + frame(FIN | CONTINUATION, b"b"),
    ):
        assert midway(data) == [True] * (len(data) - 1) + [False]
    data = client(deflated=True).send(TextMessage("hello" * 9))
    assert midway(bytes(data), deflated=True) == [True] * (len(data) - 1) + [False]


def test_control_frames_do_not_count_and_are_answered_in_between() -> None:
    stream = frame(TEXT, b"a" * 8) + frame(FIN | PING, b"12345") + frame(FIN | CONTINUATION, b"b" * 2)
    assert fed(reader(max_message=10), stream) == [ControlReply(pong_frame(b"12345")), Received("a" * 8 + "b" * 2)]


def _kinds(events: Iterable[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise_and_nothing_follows_the_end(data: bytes, deflated: bool) -> None:
    at_once = fed(reader(deflated=deflated), data)
    kinds = _kinds(at_once)
    assert not {"PeerClosed", "Violation"} & set(kinds[:-1])
    assert fed(reader(deflated=deflated), data, step=1) == at_once
