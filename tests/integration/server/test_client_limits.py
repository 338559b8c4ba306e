"""Limits for clients of one address, on every way in, and the addresses of clients behind proxies."""

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from websockets.exceptions import InvalidStatus

from tests.conftest import StartRelay
from tests.harness import PATIENCE, Kind, RedisServer, RelayServer, eventually

HANDSHAKE = (
    b"GET /ws/tasks HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%b\r\n"
)
EVENTS = b"GET /events?task=t HTTP/1.1\r\nHost: relay\r\n%b\r\n"
LIST = b"GET /api/tasks HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n%b\r\n"

#: Through the acceptor; through Hypercorn; through another server.
WAYS: list[tuple[Kind, dict[str, object]]] = [
    ("hypercorn", {}),
    ("hypercorn", {"hijack_sockets": False}),
    ("uvicorn", {}),
]
IDS = ["hijacked", "asgi", "uvicorn"]


def opened(relay: RelayServer, request: bytes, source: str = "127.0.0.1", headers: bytes = b"") -> socket.socket:
    """A connection on which a request was sent."""
    sock = socket.create_connection(("127.0.0.1", relay.port), timeout=PATIENCE, source_address=(source, 0))
    sock.sendall(request % headers)
    return sock


def head_of(sock: socket.socket) -> bytes:
    """The head of the answer; what there is when the connection ends before."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        try:
            more = sock.recv(4096)
        except ConnectionResetError:
            break
        if not more:
            break
        answer += more
    return answer


@contextmanager
def asked(relay: RelayServer, request: bytes, source: str = "127.0.0.1", headers: bytes = b"") -> Iterator[bytes]:
    """The head of the answer to a request, whose connection stays open for the time of the block."""
    with opened(relay, request, source, headers) as sock:
        yield head_of(sock)


def status_of(relay: RelayServer, request: bytes, source: str = "127.0.0.1", headers: bytes = b"") -> int:
    with asked(relay, request, source, headers) as head:
        return int(head.split()[1])


@pytest.mark.parametrize(("kind", "settings"), WAYS, ids=IDS)
def test_one_address_may_not_have_all_places(start_relay: StartRelay, kind: Kind, settings: dict[str, object]) -> None:
    relay = start_relay(kind, max_clients_per_address=3, **settings)
    with relay.client(), relay.client():
        with relay.client():
            with pytest.raises(InvalidStatus) as refused, relay.client():
                pass
            assert refused.value.response.status_code == 429
            assert int(refused.value.response.headers["retry-after"]) >= 1
            with asked(relay, EVENTS) as head:
                assert b" 429 " in head
                assert b"retry-after: 10" in head.lower()
            with asked(relay, EVENTS, headers=b"Accept: text/event-stream\r\n") as head:
                assert b" 200 " in head  # an EventSource never reconnects after any other status
            assert status_of(relay, HANDSHAKE, "127.0.0.2") == 101
            assert status_of(relay, EVENTS, "127.0.0.2") == 200
        eventually(lambda: status_of(relay, HANDSHAKE) == 101)
    assert relay.metric('relay_connections_refused_total{reason="client_limit"}') >= 3


@pytest.mark.parametrize(("kind", "settings"), WAYS, ids=IDS)
def test_connects_subscriptions_and_requests_of_one_address_are_limited(
    start_relay: StartRelay, redis_server: RedisServer, kind: Kind, settings: dict[str, object]
) -> None:
    relay = start_relay(
        kind,
        connect_rate_per_address=0.3,
        max_subscriptions_per_address=3,
        message_rate_per_address=0.5,
        **settings,
    )
    with relay.client("a") as first, relay.client() as second:  # each follows general updates, too
        second.send({"type": "subscribe", "task_id": "b"})
        assert second.receive()["code"] == "too_many_subscriptions"
        first.send({"type": "unsubscribe", "task_id": "a"})
        assert first.receive() == {"type": "unsubscribed", "task_id": "a"}
        second.subscribe("b")
        redis_server.publish_task("b", n=1)
        assert second.receive()["data"] == {"n": 1}
        assert status_of(relay, EVENTS) == 429  # one subscription more
        assert 429 in (status_of(relay, HANDSHAKE) for _ in range(50))
        assert status_of(relay, HANDSHAKE, "127.0.0.2") == 101
    assert 429 in (status_of(relay, LIST) for _ in range(50))
    assert status_of(relay, LIST, "127.0.0.2") == 200
    assert relay.get("/healthz")[0] == relay.get("/readyz")[0] == 200


@pytest.mark.parametrize(("kind", "settings"), WAYS[:2], ids=IDS[:2])
def test_clients_behind_a_trusted_proxy_have_their_own_limits(
    start_relay: StartRelay, kind: Kind, settings: dict[str, object]
) -> None:
    relay = start_relay(
        kind,
        max_clients_per_address=1,
        trusted_proxies="127.0.0.1",
        max_client_errors=1,
        message_rate_per_address=0.1,
        **settings,
    )

    def via(address: str) -> bytes:
        return f"X-Forwarded-For: 10.6.6.6, {address}\r\n".encode()

    with asked(relay, HANDSHAKE, headers=via("203.0.113.1")) as first:
        assert b" 101 " in first
        assert status_of(relay, HANDSHAKE, headers=via("203.0.113.1")) == 429
        assert status_of(relay, EVENTS, headers=via("203.0.113.1")) == 429
        assert status_of(relay, HANDSHAKE, headers=via("203.0.113.2")) == 101
        assert status_of(relay, EVENTS, headers=via("203.0.113.2")) in (200, 429)  # the former may not have gone yet
    with asked(relay, HANDSHAKE, "127.0.0.2", b"X-Forwarded-For: 203.0.113.3\r\n") as stranger:
        assert b" 101 " in stranger
        assert status_of(relay, HANDSHAKE, headers=via("203.0.113.3")) == 101  # a stranger's word does not count
        assert status_of(relay, HANDSHAKE, "127.0.0.2", b"Forwarded: for=203.0.113.4\r\n") == 429
    assert status_of(relay, LIST, headers=via("203.0.113.5")) == 200
    assert status_of(relay, LIST, headers=via("203.0.113.5")) == 429
    assert status_of(relay, LIST, headers=via("203.0.113.6")) == 200
    with opened(relay, HANDSHAKE, headers=via("203.0.113.7")) as sock:
        assert b" 101 " in head_of(sock)
        sock.sendall(b"\x81\x81\x00\x00\x00\x00{")  # not JSON
        eventually(lambda: "client dropped" in relay.logged())
    (line,) = (line for line in relay.logged().splitlines() if "client dropped" in line)
    assert json.loads(line)["client"] == "203.0.113.7"


def test_silent_connections_of_one_address_are_limited(start_relay: StartRelay) -> None:
    relay = start_relay("serve", max_clients_per_address=1)
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", relay.port), source_address=("127.0.0.9", 0)))
            for _ in range(200)
        ]
        refused = [sock for sock in silent[32:] if b" 429 " in head_of(sock)]
        assert len(refused) == 168
        assert status_of(relay, HANDSHAKE, "127.0.0.2") == 101


def test_ten_thousand_connects_of_one_address_disturb_nobody_else(
    start_relay: StartRelay, redis_server: RedisServer
) -> None:
    """The stranger connects as fast as it can; every answer is a 101 within its limits, or a 429."""
    relay = start_relay("serve", max_clients_per_address=20, connect_rate_per_address=5)
    answers = Counter[bytes]()
    with relay.client("t", source_address=("127.0.0.2", 0)) as good, ExitStack() as connected:
        memory = relay.memory()
        for number in range(40):
            burst = [opened(relay, HANDSHAKE, "127.0.0.9") for _ in range(250)]
            redis_server.publish_task("t", n=number)
            assert good.receive()["data"] == {"n": number}
            for sock in burst:
                status = head_of(sock)[9:12]
                answers[status] += 1
                connected.enter_context(sock) if status == b"101" else sock.close()
        grown = relay.memory() - memory
        with relay.client("u") as another:
            redis_server.publish_task("u", n=1)
            assert another.receive()["data"] == {"n": 1}
    assert grown < 4 << 20, "some hundred bytes for each would be more"
    assert relay.metric('relay_connections_refused_total{reason="client_limit"}') == 10_000 - answers[b"101"]
    assert set(answers) <= {
        b"101",
        b"429",
        b"",
    }  # nothing: the answer was lost, since the request came when it was closed
    assert 20 <= answers[b"101"] < 1000
    assert answers[b"429"] > 5_000


def test_messages_of_one_address_are_slowed_and_of_others_not(
    start_relay: StartRelay, redis_server: RedisServer
) -> None:
    relay = start_relay("serve", message_rate_per_address=2)
    with relay.client() as first, relay.client() as second:
        for _ in range(20):
            first.send({"type": "ping"})
        for _ in range(20):
            first.receive()
        began = time.monotonic()
        second.send({"type": "ping"})
        second.receive()
        second.send({"type": "ping"})
        second.receive()
        slowed = time.monotonic() - began
        with opened(relay, HANDSHAKE, "127.0.0.2") as sock:
            head_of(sock)
            for _ in range(10):
                sock.sendall(b"\x89\x80\x00\x00\x00\x00")
                assert sock.recv(2) == b"\x8a\x00"
    assert slowed >= 0.2  # not a bound for speed: without the limit it would be a millisecond


@pytest.mark.parametrize(("kind", "settings"), WAYS[:2], ids=IDS[:2])
def test_connects_of_all_clients_are_limited_and_probes_are_not(
    start_relay: StartRelay, redis_server: RedisServer, kind: Kind, settings: dict[str, object]
) -> None:
    # The next one would have to wait for 100 s, and may for a second.
    relay = start_relay(kind, connect_rate=0.01, handshake_timeout=2, **settings)
    with asked(relay, HANDSHAKE) as head:
        assert b" 101 " in head
        with asked(relay, HANDSHAKE) as head:
            assert b" 503 " in head
            assert b"retry-after: " in head.lower()
        with asked(relay, EVENTS) as head:
            assert b" 200 " in head  # an EventSource never reconnects after any other status
        with asked(relay, b"POST /connection/sse HTTP/1.1\r\nHost: relay\r\nContent-Length: 0\r\n%b\r\n") as head:
            assert b" 503 " in head
        for path in ("/healthz", "/readyz", "/metrics", "/api/tasks"):
            assert relay.get(path)[0] == 200
    assert relay.metric('relay_connections_refused_total{reason="connect_rate"}') == 3
