"""Handshakes on the fresh connection, beside those that go Hypercorn's ordinary way: clients see no difference."""

import resource
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

from relay.core.closecodes import Close
from tests.conftest import StartRelay
from tests.harness import PATIENCE, RedisServer, RelayServer, eventually, masked_frame, masked_text

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADE = b"Host: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
#: RFC 6455 section 1.3 has this key and its answer.
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def request(path: bytes = b"/ws/tasks", headers: bytes = UPGRADE + KEY, version: bytes = b"1.1") -> bytes:
    return b"GET %b HTTP/%b\r\n%b\r\n" % (path, version, headers)


def connected(relay: RelayServer) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", relay.port), PATIENCE)
    sock.settimeout(PATIENCE)
    return sock


def answer(sock: socket.socket) -> bytes:
    """The head of the answer; what follows it stays unread."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        some = sock.recv(1)
        if not some:
            break
        received += some
    return received


def ways(relay: RelayServer) -> float:
    return relay.metric('relay_connections_accepted_total{transport="hijacked"}')


@pytest.mark.parametrize("arguments", [(), ("--access-logfile", "/dev/null")], ids=["ours", "ordinary"], scope="module")
def test_both_ways_answer_and_refuse_alike(share_relay: StartRelay, arguments: tuple[str, ...]) -> None:
    relay = share_relay("hypercorn", arguments=arguments, allowed_origins="https://good.example")
    good = b"Origin: https://good.example\r\n"
    cases = {
        request(): b" 101 ",
        request(headers=UPGRADE + KEY + good): b" 101 ",
        request(path=b"/ws/tasks?x=1"): b" 101 ",
        request(headers=UPGRADE + KEY + b"Origin: https://bad.example\r\n"): b" 403 ",
        request(path=b"/nothing"): b" 404 ",
        request(headers=UPGRADE): b" 400 ",
        request(headers=KEY + UPGRADE.replace(b": 13", b": 8")): b" 4",
        request(
            headers=UPGRADE + KEY + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=x\r\n"
        ): b" 101 ",
        request(path=b"/healthz", headers=b"Host: relay\r\n"): b" 200 ",
        b"POST /ws/tasks HTTP/1.1\r\nHost: relay\r\nContent-Length: 0\r\n\r\n": b" 405 ",
        b"NONSENSE\r\n\r\n": b" 400 ",
    }
    for sent, expected in cases.items():
        with connected(relay) as sock:
            sock.sendall(sent)
            head = answer(sock)
            assert expected in head.partition(b"\r\n")[0] + b" ", (sent, head)
            assert (ACCEPT.lower() in head.lower()) == (expected == b" 101 ")
    assert relay.get("/readyz")[0] == 200


@pytest.mark.parametrize("arguments", [(), ("--access-logfile", "/dev/null")], ids=["ours", "ordinary"], scope="module")
def test_headers_that_hypercorn_fails_at_end_only_their_connection(
    share_relay: StartRelay, shared_redis: RedisServer, arguments: tuple[str, ...]
) -> None:
    relay = share_relay("hypercorn", arguments=arguments)
    with relay.client("t") as client:
        for headers in (b"Sec-WebSocket-Extensions: \xff\r\n", b"Sec-WebSocket-Protocol: \xff\r\n"):
            with connected(relay) as sock, suppress(ConnectionResetError):
                sock.sendall(request(headers=UPGRADE + KEY + headers))
                answer(sock)
        assert relay.get("/healthz")[0] == 200
        shared_redis.publish_task("t", progress=1)
        assert client.receive()["data"] == {"progress": 1}


def test_deflate_is_agreed_on(share_relay: StartRelay) -> None:
    relay = share_relay()
    with connected(relay) as sock:
        sock.sendall(request(headers=UPGRADE + KEY + b"Sec-WebSocket-Extensions: permessage-deflate\r\n"))
        assert b"sec-websocket-extensions: permessage-deflate" in answer(sock).lower()


def test_what_comes_with_the_handshake_or_in_pieces_is_not_lost(share_relay: StartRelay) -> None:
    relay = share_relay()
    subscribe = masked_text(b'{"type":"subscribe","task_id":"t"}')
    expected = b'{"type":"subscribed","task_id":"t"}'
    stream = request() + subscribe
    for cut in (len(stream), 1, 30, len(request()) - 2, len(request()), len(request()) + 3):
        with connected(relay) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            before = ways(relay)
            sock.sendall(stream[:cut])
            if 0 < cut < len(request()):
                # The first piece goes on alone: nothing has been accepted yet.
                assert relay.get("/healthz")[0] == 200
                assert ways(relay) == before
            sock.sendall(stream[cut:])
            assert b" 101 " in answer(sock)
            received = b""
            while len(received) < len(expected) + 2:
                received += sock.recv(4096)
            assert received[2:] == expected


@pytest.mark.parametrize("arguments", [(), ("--access-logfile", "/dev/null")], ids=["ours", "ordinary"], scope="module")
def test_half_a_message_behind_the_handshake_has_its_time_limit(
    share_relay: StartRelay, arguments: tuple[str, ...]
) -> None:
    relay = share_relay("hypercorn", arguments=arguments, message_timeout=0.5)
    with connected(relay) as sock:
        sock.sendall(request() + masked_text(b'{"type":"ping"}')[:-1])
        assert b" 101 " in answer(sock)
        assert sock.recv(4)[2:] == Close.MESSAGE_TIMEOUT.code.to_bytes(2)


@pytest.mark.parametrize("hijack_sockets", [True, False], scope="module")
@pytest.mark.parametrize("said", [(1000).to_bytes(2), (4321).to_bytes(2) + b"enough", b""])
def test_who_closes_gets_back_what_it_said(share_relay: StartRelay, hijack_sockets: bool, said: bytes) -> None:
    """A browser's ``CloseEvent`` shows what the server's close frame says."""
    relay = share_relay(hijack_sockets=hijack_sockets)
    with connected(relay) as sock:
        sock.sendall(request())
        answer(sock)
        sock.sendall(masked_frame(0x80 | Opcode.CLOSE, said))
        received = b""
        while some := sock.recv(65536):
            received += some
    assert received.endswith(bytes([0x80 | Opcode.CLOSE, len(said)]) + said)


@pytest.mark.parametrize("head", [b"a:b\r\n" * 1000 + b"\r\n", b"a:" + b"b" * 70_000], ids=["many lines", "no end"])
def test_a_head_that_is_too_large_is_refused_at_once(share_relay: StartRelay, head: bytes) -> None:
    relay = share_relay()
    for method in (b"GET", b"POST"):
        with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as sock:
            sock.sendall(method + b" /ws/tasks HTTP/1.1\r\nHost: relay\r\n" + head)
            answer = b""
            with suppress(ConnectionResetError):  # what it did not read is discarded
                while data := sock.recv(4096):
                    answer += data
            assert answer.startswith(b"HTTP/1.1 431 ")


def test_an_early_body_is_no_handshake(share_relay: StartRelay) -> None:
    relay = share_relay()
    with connected(relay) as sock:
        sock.sendall(request(headers=UPGRADE + KEY + b"Content-Length: 5\r\n") + b"hello")
        assert answer(sock)
    assert relay.get("/readyz")[0] == 200


def test_silent_connections_do_not_hold_up_the_shutdown(start_relay: StartRelay, redis_server: RedisServer) -> None:
    relay = start_relay("serve", graceful_timeout=40)
    silent = [connected(relay) for _ in range(5)]
    with relay.client("t") as client:
        relay.child.terminate()
        with pytest.raises(ConnectionClosed, match="1001"):
            client.receive()
    assert all(sock.recv(1) == b"" for sock in silent)
    assert relay.wait() == 0
    for sock in silent:
        sock.close()


def test_a_client_for_which_no_file_is_left_is_sent_to_try_again(share_relay: StartRelay) -> None:
    """The server has accepted its connection, which cannot be taken over."""
    relay = share_relay("hypercorn", arguments=("--access-logfile", "/dev/null"))
    limits = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
    files = max(int(path.name) for path in Path(f"/proc/{relay.pid}/fd").iterdir())
    resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (files + 2, limits[1]))
    try:
        with ExitStack() as stack:
            first = b"\x81"
            while first[0] == 0x81:  # as many as there are files for
                sock = stack.enter_context(connected(relay))
                sock.sendall(request() + masked_text(b'{"type":"ping"}'))
                assert b" 101 " in answer(sock)
                first = sock.recv(100)
            assert first[2:] == Close.FULL.code.to_bytes(2) + Close.FULL.reason.encode()
            assert sock.recv(1) == b""
    finally:
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, limits)
    assert relay.metric('relay_connections_refused_total{reason="no_files"}') == 1
    eventually(lambda: relay.metric('relay_connections{transport="hijacked"}') == 0)


def test_a_client_that_hangs_up_at_once_leaves_nothing(share_relay: StartRelay) -> None:
    relay = share_relay()
    for data in (b"", request(), request()[:20]):
        for _ in range(20):
            with connected(relay) as sock:
                sock.sendall(data)
    eventually(lambda: relay.metric('relay_connections{transport="hijacked"}') == 0)
    assert relay.get("/readyz")[0] == 200
