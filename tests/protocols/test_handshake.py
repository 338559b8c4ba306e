"""The opening handshake: what is taken, what is left to the server, and what is agreed on."""

import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.handshake import client_extensions_handshake

from relay.protocols.connection import connection_of
from relay.protocols.deflate import MAX_OFFERS_LENGTH
from relay.protocols.frames import Event, FrameReader, Received
from relay.protocols.handshake import MAX_HEAD_LINES, has_too_many_lines, read_handshake
from relay.server.socket_options import NOTSENT_LOWAT, set_tcp_options, tune

HEADERS = {
    b"Host": b"relay",
    b"Upgrade": b"websocket",
    b"Connection": b"keep-alive, Upgrade",
    b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version": b"13",
}


def request(changed: dict[bytes, bytes | None] | None = None, line: bytes = b"GET /ws/tasks?a=b HTTP/1.1") -> bytes:
    headers = HEADERS | (changed or {})
    lines = [line, *(b"%b: %b" % (name, value) for name, value in headers.items() if value is not None)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_a_valid_opening_is_read_and_answered() -> None:
    opening = read_handshake(request({b"Origin": b"https://app.example"}) + b"\x81early")
    assert opening is not None
    assert opening.path == b"/ws/tasks"
    assert (b"origin", b"https://app.example") in opening.headers
    assert opening.early == b"\x81early"
    # RFC 6455 section 1.3 has this key and its answer.
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in opening.accept()
    assert opening.accept().startswith(b"HTTP/1.1 101 ")
    assert opening.accept().endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        request(line=b"POST /ws/tasks HTTP/1.1"),
        request(line=b"GET /ws/tasks HTTP/1.0"),
        request({b"Host": None}),
        request({b"Upgrade": None}),
        request({b"Upgrade": b"h2c"}),
        request({b"Connection": b"keep-alive"}),
        request({b"Sec-WebSocket-Key": None}),
        request({b"Sec-WebSocket-Key": b"short"}),
        request({b"Sec-WebSocket-Key": b"x" * 24}),
        request({b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ=!"}),
        request({b"Sec-WebSocket-Version": b"8"}),
        request({b"Content-Length": b"5"}),
        request({b"Transfer-Encoding": b"chunked"}),
        request({b"Sec-WebSocket-Extensions": b"\xff"}),
        request({b"host": b"another"}),
        request({b"X": b"a\x00b"}),
        request().replace(b"Host:", b"Host :"),
        request()[:-1],
        b"\x16\x03\x01 TLS",
        b"",
    ],
)  # fmt: skip
def test_everything_else_is_left_to_the_server(data: bytes) -> None:
    assert read_handshake(data) is None


@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_bytes_are_too_odd_to_be_looked_at(noise: bytes, at: int) -> None:
    whole = request()
    read_handshake(whole[:at] + noise + whole[at:])


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        (b"permessage-deflate", b"permessage-deflate; client_no_context_takeover"),
        (
            b"permessage-deflate; client_max_window_bits",
            b"permessage-deflate; client_no_context_takeover; client_max_window_bits=15",
        ),
        (
            b"x-unknown, permessage-deflate; client_max_window_bits=10",
            b"permessage-deflate; client_no_context_takeover; client_max_window_bits=10",
        ),
        # Two offers that differ: the first is meant, in the answer and in what is done.
        (
            b"permessage-deflate; client_max_window_bits=9, permessage-deflate",
            b"permessage-deflate; client_no_context_takeover; client_max_window_bits=9",
        ),
        (b"x-unknown", b""),
        (b"permessage-deflate; client_max_window_bits=abc", b""),
        (
            b"permessage-deflate; client_max_window_bits=abc, permessage-deflate",
            b"permessage-deflate; client_no_context_takeover",
        ),
    ],
)
def test_deflate_is_agreed_on_and_done(offers: bytes, answer: bytes) -> None:
    opening = read_handshake(request({b"Sec-WebSocket-Extensions": offers}))
    assert opening is not None
    assert (b"Sec-WebSocket-Extensions: %b\r\n" % answer in opening.accept()) == bool(answer)
    extension = PerMessageDeflate()
    agreed = client_extensions_handshake([answer.decode()] if answer else [], [extension])
    client = Connection(ConnectionType.CLIENT, agreed)
    reader = FrameReader(1 << 20, lambda: connection_of(opening.offers, 1 << 20))
    for text in ("short", "long " * 500, "short"):
        assert events(reader, client.send(TextMessage(text))) == [Received(text)]


def test_a_header_costs_what_it_is_long_at_most() -> None:
    """Counted in steps of the interpreter, which no other load of the machine changes."""

    def steps(offers: bytes) -> int:
        count = 0

        def trace(*_: object) -> object:
            nonlocal count
            count += 1
            return trace

        data = request({b"Sec-WebSocket-Extensions": offers})
        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            opening = read_handshake(data)
            assert opening is not None
            answer = opening.accept()
        finally:
            sys.settrace(None)
        assert b"Extensions" not in answer
        return count

    assert steps(b"," * 59_000) < 2 * steps(b"x-unknown")
    assert steps(b"," * MAX_OFFERS_LENGTH) < 100 * steps(b"x-unknown")


@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["not complete", "complete"])
def test_a_head_of_too_many_lines_is_found_before_it_is_parsed(end: bytes) -> None:
    most = request({b"x%d" % number: b"y" for number in range(MAX_HEAD_LINES - 20)})
    assert read_handshake(most) is not None
    assert not has_too_many_lines(most + b"\n" * 1000)
    many = request({b"x%d" % number: b"y" for number in range(MAX_HEAD_LINES)})[:-2] + end
    assert has_too_many_lines(many)
    assert has_too_many_lines(many.replace(b"\r\n", b"\n"))
    assert not has_too_many_lines(b"")


@pytest.mark.parametrize(
    ("requested", "agreed"),
    [
        ([b"chat"], b"chat"),
        ([b"access_token, eyJh.bGci.x-y_z"], b"access_token"),
        ([b"", b"  second , third"], b"second"),
        ([b"not a token, token"], b"token"),
        ([b"x" * 2000], None),
        ([], None),
    ],
)
def test_a_requested_subprotocol_is_agreed_on(requested: list[bytes], agreed: bytes | None) -> None:
    """A browser that asks for one and is answered without closes the connection."""
    lines = b"".join(b"Sec-WebSocket-Protocol: %b\r\n" % value for value in requested)
    opening = read_handshake(request()[:-2] + lines + b"\r\n")
    assert opening is not None
    answer = opening.accept()
    assert (b"\r\nSec-WebSocket-Protocol: %b\r\n" % agreed in answer) if agreed else (b"-Protocol" not in answer)


def events(reader: FrameReader, data: bytes) -> list[Event]:
    return list(reader.receive(data))


def test_what_is_accepted_has_the_options_of_its_listening_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        set_tcp_options(listening, 7.0)
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            options = {
                (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT): NOTSENT_LOWAT,
                (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 7000,
                (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
                # Probes of all that fall idle together go out together, too many for a kernel; heartbeats do instead.
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 0,
            }
            for (level, option), value in options.items():
                assert accepted.getsockopt(level, option) == value


def test_a_lost_probe_is_no_dead_peer() -> None:
    with socket.socket() as sock:
        tune(sock, 20.0)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
        first, interval, given_up = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert first + 3 * interval < given_up / 1000 == 20
