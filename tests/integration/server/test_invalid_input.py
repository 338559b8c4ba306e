"""Every bad input gets a clear error or a documented close, disturbs nobody else, and is counted."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

from tests.conftest import StartRelay
from tests.harness import Client, RedisServer, RelayServer, eventually, masked_frame

MIB = 1024 * 1024


@contextmanager
def bystander(relay: RelayServer, redis_server: RedisServer) -> Iterator[None]:
    """Somebody else, who gets every update before, while and after."""
    with relay.client("other") as client:
        redis_server.publish_task("other", n=1)
        assert client.receive()["data"] == {"n": 1}
        yield
        redis_server.publish_task("other", n=2)
        assert client.receive()["data"] == {"n": 2}


ANSWERED = {
    "not json": ("hello", "not_json"),
    "empty": ("", "not_json"),
    "half an object": ('{"type":"subscribe"', "not_json"),
    "not an object": ("[1,2]", "wrong_type"),
    "a number": ("7", "wrong_type"),
    "null": ("null", "wrong_type"),
    "no type": ("{}", "wrong_type"),
    "type is a number": ('{"type":1}', "unknown_type"),
    "unknown type": ('{"type":"dance"}', "unknown_type"),
    "no task": ('{"type":"subscribe"}', "missing_task_id"),
    "task is an object": ('{"type":"subscribe","task_id":{}}', "wrong_type"),
    "task is empty": ('{"type":"subscribe","task_id":""}', "missing_task_id"),
    "task is long": ('{"type":"subscribe","task_id":"%s"}' % ("x" * 300), "bad_task_id"),
    "unknown channel": ('{"type":"subscribe","channel":"secrets"}', "unknown_channel"),
    "nested deep": ("[" * 10_000 + "]" * 10_000, "too_deep|wrong_type|not_json"),
    "nested deep inside": (
        '{"type":"subscribe","task_id":"t","x":' + "[" * 10_000 + "]" * 10_000 + "}",
        "too_deep|wrong_type|not_json",
    ),
}


@pytest.mark.parametrize("hijack_sockets", ["true", "false"])
def test_malformed_messages_are_answered_and_the_connection_lives_on(
    hijack_sockets: str, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay(hijack_sockets=hijack_sockets, max_client_errors=len(ANSWERED) + 1)
    with bystander(relay, redis_server), relay.client() as client:
        for name, (message, codes) in ANSWERED.items():
            client.connection.send(message)
            answer = client.receive()
            assert answer["type"] == "error", name
            assert answer["code"] in codes.split("|"), name
            assert answer["message"], name
        client.subscribe("t")
        redis_server.publish_task("t", fine=True)
        assert client.receive()["data"] == {"fine": True}
    counted = sum(
        relay.metric(f'relay_messages_invalid_total{{code="{code}"}}')
        for code in (
            "not_json",
            "wrong_type",
            "unknown_type",
            "missing_task_id",
            "bad_task_id",
            "unknown_channel",
            "too_deep",
        )
    )
    assert counted == len(ANSWERED)


def test_a_client_that_keeps_at_it_is_dropped(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(max_client_errors=5)
    with bystander(relay, redis_server), relay.client() as client:
        for _ in range(5):
            client.connection.send("nonsense")
        for _ in range(5):
            assert client.receive()["type"] == "error"
        assert closed_with(client) == (1008, "too many malformed messages")
    assert relay.metric('relay_connections_dropped_total{reason="too_many_errors"}') == 1


def closed_with(client: Client) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as caught:
        client.receive()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def close_code(relay: RelayServer, sent: bytes) -> tuple[int, bytes]:
    """Send raw bytes after the handshake; the code and reason of the close frame that comes back."""
    sock = relay.raw_client()
    sock.sendall(sent)
    frame = b""
    while chunk := sock.recv(4096):
        frame += chunk
    sock.close()
    assert frame[0] == 0x88, frame
    return int.from_bytes(frame[2:4]), frame[4:]


@pytest.mark.parametrize("transport", ["hijacked", "asgi"])
def test_violations_end_the_connection_with_their_code(
    transport: str, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay(message_timeout=1, hijack_sockets=str(transport == "hijacked").lower())
    with bystander(relay, redis_server):
        text, binary = 0x80 | Opcode.TEXT, 0x80 | Opcode.BINARY
        assert close_code(relay, masked_frame(binary, b"\0\1")) == (1003, b"binary messages are not supported")
        assert close_code(relay, masked_frame(text, b"\xff\xfe")) == (1007, b"text is not valid UTF-8")
        assert close_code(relay, masked_frame(text, b"x" * MIB)) == (1009, b"message too big")
        assert close_code(relay, masked_frame(0x83, b"reserved opcode")) == (1002, b"WebSocket protocol error")
        assert close_code(relay, b"\x81\x05hello")[0] == 1002, "not masked"
        half = masked_frame(text, b'{"type":"ping"}')[:-3]
        assert close_code(relay, half) == (4009, b"message begun but not finished in time")
        assert close_code(relay, masked_frame(Opcode.TEXT, b'{"type":')) == (
            4009,
            b"message begun but not finished in time",
        ), "a first fragment without the rest"
        assert close_code(relay, b"\x81")[0] == 4009, "half a header"
    for reason, count in {
        "binary": 1,
        "invalid_utf8": 1,
        "message_too_big": 1,
        "protocol_error": 2,
        "message_timeout": 3,
    }.items():
        assert relay.metric(f'relay_connections_dropped_total{{reason="{reason}"}}') == count, reason
    eventually(lambda: relay.metric(f'relay_connections{{transport="{transport}"}}') == 0)


SKIPPED = {
    "not json": (b"progress!", "not_json"),
    "not an object": (b"[]", "wrong_type"),
    "data is a list": (b'{"type":"task_update","task_id":"other","data":[]}', "wrong_type"),
    "no task": (b'{"type":"task_update","data":{}}', "missing_task_id"),
    "task is a list": (b'{"type":"task_update","task_id":[],"data":{}}', "wrong_type"),
    "invalid utf-8": (b'{"type":"task_update","task_id":"other","data":{"m":"\xff"}}', "invalid_utf8"),
    "a megabyte": (b'{"type":"task_update","task_id":"other","data":{"m":"%b"}}' % (b"x" * MIB), "too_big"),
    "nested deep": (
        b'{"type":"task_update","task_id":"other","data":{"m":' + b"[" * 10_000 + b"]" * 10_000 + b"}}",
        "too_deep",
    ),
}


def test_bad_publishes_are_logged_and_skipped(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    with bystander(relay, redis_server):
        for name, (message, _) in SKIPPED.items():
            assert redis_server.publish("task_updates", message) == 1, name
    lines = [msgspec.json.decode(line) for line in relay.logged().splitlines() if "published message skipped" in line]
    assert [(line["channel"], line["code"]) for line in lines] == [
        ("task_updates", code) for _, code in SKIPPED.values()
    ]
    for code in {code for _, code in SKIPPED.values()}:
        expected = [code for _, code in SKIPPED.values()].count(code)
        assert relay.metric(f'relay_updates_invalid_total{{code="{code}"}}') == expected


def test_too_many_clients(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(max_clients=2)
    with relay.client(), relay.client("t") as second:
        with relay.client() as third:
            assert closed_with(third) == (1013, "too many clients")
        redis_server.publish_task("t", fine=True)
        assert second.receive()["data"] == {"fine": True}
    eventually(lambda: relay.metric('relay_connections{transport="hijacked"}') == 0)
    with relay.client("t"):
        pass


def test_origin(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(allowed_origins="https://app.example, https://admin.example")
    with relay.client("t", origin="https://admin.example"), relay.client("t"):
        pass
    with pytest.raises(Exception, match="403"), relay.client(origin="https://evil.example"):
        pass
    assert relay.metric('relay_connections_refused_total{reason="origin"}') == 1
