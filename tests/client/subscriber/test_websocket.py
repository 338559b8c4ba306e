"""The client's side of a WebSocket, against wsproto's server side and against bytes that no server should send."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay_client.subscriber.endpoint import Endpoint
from relay_client.subscriber.websocket import Closed, WebSocket
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Pong, Request, TextMessage


class Peer:
    """A client and a server without a network between them."""

    def __init__(self, max_message: int = 1000) -> None:
        self.client = WebSocket("relay", "/ws/tasks", [], max_message)
        self.server = WSConnection(ConnectionType.SERVER)
        self.server.receive_data(self.client.data_to_send())
        [request] = self.server.events()
        assert isinstance(request, Request)
        self.handshake = self.server.send(AcceptConnection())

    def open(self) -> "Peer":
        self.client.receive_data(self.handshake)
        assert self.client.is_open
        return self

    def send(self, *events: Event) -> list[str]:
        """What the client makes of it."""
        return self.send_bytes(b"".join(self.server.send(event) for event in events))

    def send_bytes(self, data: bytes) -> list[str]:
        self.client.receive_data(data)
        return list(iter(self.client.next_message, None))

    def received(self) -> list[Event]:
        """What the client has sent."""
        self.server.receive_data(self.client.data_to_send())
        return list(self.server.events())


def frame(opcode: int, payload: bytes, *, is_final: bool = True) -> bytes:
    """A server's frame of less than 126 bytes."""
    return bytes((opcode | (0x80 if is_final else 0), len(payload))) + payload


@given(st.lists(st.text(max_size=50), max_size=5), st.lists(st.integers(1, 40), min_size=1))
def test_messages_come_whole_however_the_bytes_are_cut(messages: list[str], cuts: list[int]) -> None:
    peer = Peer()
    data = peer.handshake + b"".join(peer.server.send(TextMessage(message)) for message in messages)
    received: list[str] = []
    place = index = 0
    while place < len(data):
        size = cuts[index % len(cuts)]
        received += peer.send_bytes(data[place : place + size])
        place, index = place + size, index + 1
    assert received == messages


def test_fragments_are_joined() -> None:
    parts = [TextMessage("a", message_finished=False), TextMessage("", message_finished=False), TextMessage("b")]
    assert Peer().open().send(*parts) == ["ab"]


def test_many_pings_get_one_pong() -> None:
    peer = Peer().open()
    peer.send(*(Ping(str(number).encode()) for number in range(1000)))
    assert peer.received() == [Pong(b"999")]


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1012, 1013, 3000, 4000, 4008, 4999])
def test_a_close_frame_is_answered_and_its_code_reported(code: int) -> None:
    peer = Peer().open()
    peer.send(CloseConnection(code, "because"))
    assert peer.client.ended == Closed(f"closed: {code} because", code)
    assert [type(event) for event in peer.received()] == [CloseConnection]
    peer.client.send_text("too late")
    assert peer.client.data_to_send() == b""


def test_a_close_frame_without_a_code() -> None:
    peer = Peer().open()
    peer.send_bytes(frame(0x8, b""))
    assert peer.client.ended == Closed("closed: 1005 NO_STATUS_RCVD", 1005)


@pytest.mark.parametrize(
    "data",
    [
        *(frame(0x8, struct.pack("!H", code)) for code in (0, 999, 1004, 1005, 1006, 1014, 1015, 2000, 2999, 5000)),
        frame(0x8, b"\x03"),
        frame(0x8, struct.pack("!H", 1000) + b"\xff"),
        frame(0x3, b""),
        frame(0x0, b"x"),
        frame(0x1, b"\xff"),
        frame(0x9, b"", is_final=False),
        b"\xf1\x00",
        b"\x82\x01x",
    ],
)
def test_a_violation_is_no_close_code_of_the_relay(data: bytes) -> None:
    """What a network or a proxy has garbled says nothing about whether to reconnect."""
    peer = Peer().open()
    peer.send_bytes(data)
    ended = peer.client.ended
    assert ended is not None
    assert ended.code is None
    assert ended.why.startswith("WebSocket protocol error")
    assert [type(event) for event in peer.received()] == [CloseConnection]


def test_a_message_beyond_the_limit() -> None:
    peer = Peer(max_message=10).open()
    assert peer.send(TextMessage("x" * 10)) == ["x" * 10]
    assert peer.send(TextMessage("x" * 6, message_finished=False), TextMessage("x" * 5)) == []
    assert peer.client.ended is not None
    assert peer.client.ended.code == 1009
    [close] = peer.received()
    assert isinstance(close, CloseConnection)
    assert close.code == 1009


def test_closing() -> None:
    peer = Peer().open()
    peer.client.close()
    peer.client.close()
    assert peer.send(TextMessage("late")) == []
    [close] = peer.received()
    assert isinstance(close, CloseConnection)
    assert close.code == 1000
    peer.send_bytes(peer.server.send(close.response()))
    assert peer.client.ended == Closed("closed: 1000 NORMAL_CLOSURE", 1000)
    assert peer.client.data_to_send() == b""


def test_a_server_may_say_when_to_try_again() -> None:
    for header, seconds in (
        (b"Retry-After: 7", 7.0),
        (b"Retry-After: soon", 0.0),
        (b"X: 1", 0.0),
        (b"retry-after: 0", 0.0),
    ):
        peer = Peer()
        peer.client.receive_data(b"HTTP/1.1 429 Too Many Requests\r\n" + header + b"\r\nContent-Length: 0\r\n\r\n")
        assert peer.client.ended is not None
        assert (peer.client.ended.status, peer.client.ended.retry_after) == (429, seconds)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno", 503),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", 404),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
        (b"220 mail.example ESMTP\r\n\r\n", None),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", None),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: \xff\r\n\r\n", None),
        (b"HTTP/1.1 101 Switching Protocols\r\nX: " + 100_000 * b"x", None),
        (b"\x16\x03\x01\x02\x00", None),
    ],
)
def test_other_answers_to_the_handshake(answer: bytes, status: int | None) -> None:
    peer = Peer()
    assert peer.send_bytes(answer + (b"" if answer.endswith(b"\r\n\r\n") else b"\r\n\r\n")) == []
    assert not peer.client.is_open
    assert peer.client.ended is not None
    assert peer.client.ended.status == status


def test_bytes_after_the_end_are_ignored() -> None:
    peer = Peer().open()
    peer.send(CloseConnection(1001))
    assert peer.send_bytes(frame(0x1, b"late")) == []


def test_binary_messages_are_refused() -> None:
    peer = Peer().open()
    assert peer.send(BytesMessage(b"x"), TextMessage("y")) == []
    assert peer.client.ended is not None


@pytest.mark.parametrize(
    ("url", "headers"),
    [("ws://relay/a b", {}), ("ws://relay/\N{SNOWMAN}", {}), ("ws://a..b/", {}), ("ws://relay/", {"no name": "x"})],
)
def test_what_http_cannot_carry_is_refused_at_once(url: str, headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be sent over HTTP"):
        Endpoint.parse(url, headers, None)


def test_where_a_relay_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELAY_URL", raising=False)
    assert Endpoint.parse(None, None, None).url == "ws://127.0.0.1:8000/ws/tasks"
    monkeypatch.setenv("RELAY_URL", "https://relay.example/prefix")
    assert Endpoint.parse(None, None, None).url == "wss://relay.example/prefix/ws/tasks"
    assert Endpoint.parse("ws://relay", None, None).url == "ws://relay/ws/tasks"


def test_secrets_stay_out_of_messages() -> None:
    endpoint = Endpoint.parse("ws://relay:8000/ws/tasks?token=secret", {"Authorization": "secret"}, None)
    assert endpoint.url == "ws://relay:8000/ws/tasks"
    assert "secret" not in repr(endpoint)


def test_a_relay_that_shuts_down_says_when_to_come_back() -> None:
    reason = "relay is shutting down; retry after 3.25 s"
    peer = Peer().open()
    peer.send(CloseConnection(1001, reason))
    assert peer.client.ended == Closed(f"closed: 1001 {reason}", 1001, retry_after=3.25)
    for other in (
        "retry after 3 s",
        "; retry after -3 s",
        "; retry after 99999999999 s",
        "; retry after 3 s, perhaps",
        "",
    ):
        peer = Peer().open()
        peer.send(CloseConnection(1001, other))
        assert peer.client.ended is not None
        assert peer.client.ended.retry_after == 0.0, other
