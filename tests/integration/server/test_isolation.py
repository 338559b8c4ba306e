"""What one client, one odd answer of Redis', or a closed pipe must not do: end a relay, or hold up others."""

import fcntl
import json
import os
import select
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import httpx
import pytest
from relay_wire import keys
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from relay.core.updates import Position
from relay.processes import start_child
from relay.protocols.event_ids import EventId
from tests.conftest import StartRelay
from tests.harness import Kind, RedisServer, RelayServer, eventually
from tests.kernel import connections_to
from tests.ports import free_port


def test_a_redis_user_who_may_not_ask_who_listens(redis_server: RedisServer, start_relay: StartRelay) -> None:
    with redis_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "relay", "on", ">secret", "~*", "&*", "+@all", "-pubsub")
    relay = start_relay(redis_url=redis_server.url.replace("//", "//relay:secret@"))
    with relay.client("t") as client:
        redis_server.publish_task("t", n=1)
        assert client.receive()["data"] == {"n": 1}


def test_replicas_that_are_missing_for_a_moment(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    with relay.client("t") as client, redis_server.client() as admin:
        redis_server.publish_task("t", n=1)
        assert client.receive()["data"] == {"n": 1}
        admin.config_set("min-replicas-to-write", 1)
        redis_server.publish_task("t", n=2)
        assert select.select([client.connection.socket], [], [], 0.3)[0] == []
        admin.config_set("min-replicas-to-write", 0)
        assert client.receive()["data"] == {"n": 2}
        assert admin.hget(keys.meta("task:t"), "top") == b"2"
    assert relay.metric("relay_updates_unpersisted_total") == 0


def test_a_cluster_that_does_not_tell_its_addresses(tmp_path: Path, start_relay: StartRelay) -> None:
    directory = tmp_path / "cluster"
    directory.mkdir()
    hidden = ("--cluster-enabled", "yes", "--cluster-preferred-endpoint-type", "unknown-endpoint")
    with RedisServer(directory, "--save", "", *hidden) as node, node.client() as admin:
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: b"cluster_state:ok" in admin.execute_command("CLUSTER", "INFO"))
        relay = start_relay(redis_url=f"redis+cluster://127.0.0.1:{node.port}")
        with relay.client("t") as client:
            node.publish_task("t", n=1)
            assert client.receive()["data"] == {"n": 1}


def test_nobody_reads_the_log_any_more(redis_server: RedisServer, tmp_path: Path) -> None:
    port, (reads, writes) = free_port(), os.pipe()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
    command = [sys.executable, "-m", "relay.cli", "serve", "--port", str(port)]
    environ["REDIS_URL"] = redis_server.url
    child = start_child(command, env=environ, stdout=subprocess.DEVNULL, stderr=writes, cwd=tmp_path)
    os.close(writes)

    def bad_messages() -> int:
        try:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        except httpx.HTTPError:
            return -1
        return text.count('relay_updates_invalid_total{code="not_json"} 1')

    try:
        eventually(lambda: bad_messages() == 0)
        os.close(reads)
        eventually(lambda: redis_server.publish("task_updates", "no json") == 1)  # which is logged
        eventually(lambda: bad_messages() == 1)
        assert child.poll() is None
    finally:
        child.terminate()
        child.wait(20)


def test_a_log_reader_that_stalls_does_not_stop_the_relay(redis_server: RedisServer, tmp_path: Path) -> None:
    port, (reads, writes) = free_port(), os.pipe()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
    environ |= {"REDIS_URL": redis_server.url, "RELAY_LOG_LEVEL": "DEBUG"}
    command = [sys.executable, "-m", "relay.cli", "serve", "--port", str(port)]
    child = start_child(command, env=environ, stdout=subprocess.DEVNULL, stderr=writes, cwd=tmp_path)
    os.close(writes)
    skipped = "relay_updates_invalid_total"

    def invalid_updates() -> int:
        try:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        except httpx.HTTPError:
            return -1
        return sum(int(float(line.split()[1])) for line in text.splitlines() if line.startswith(skipped + "{"))

    try:
        eventually(lambda: redis_server.publish("task_updates", "no json") == 1)
        eventually(lambda: invalid_updates() == 1)
        fcntl.fcntl(reads, fcntl.F_SETPIPE_SZ, 4096)  # nobody reads it, and a line in two fills it
        for number in range(200):
            redis_server.publish("task_updates", json.dumps({"type": f"kind {number}", "data": {}, "x": "y" * 100}))
        eventually(lambda: invalid_updates() == 201)
        assert child.poll() is None
    finally:
        child.terminate()
        child.wait(20)
        os.close(reads)


def test_requests_for_tasks_wait_for_one_of_few_connections(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(redis_max_connections=2)
    url = f"http://127.0.0.1:{relay.port}/api/tasks"
    with ThreadPoolExecutor(24) as pool:
        answers = [pool.submit(httpx.get, url, timeout=20) for _ in range(96)]
        with relay.client(*map(str, range(20))):
            pass
        assert {answer.result().status_code for answer in answers} == {200}
    assert "failed" not in relay.logged()


def test_a_channel_that_cannot_be_read(redis_server: RedisServer, start_relay: StartRelay) -> None:
    """Another program's value lies under its key: its subscribers get an error, all others subscribe as usual."""
    relay = start_relay(redis_timeout=5)
    with redis_server.client() as admin:
        admin.set(keys.meta("task:bad"), "of another kind")
    with relay.client() as client:
        for number in range(20):
            client.send({"type": "subscribe", "task_id": "bad", "position": None})
            refused = client.receive()
            assert (refused["type"], refused["code"]) == ("error", "unavailable"), refused
            with relay.client(f"t{number}"):
                pass
        with redis_server.client() as admin:
            admin.delete(keys.meta("task:bad"))
        client.send({"type": "subscribe", "task_id": "bad", "position": None})
        assert client.receive()["type"] == "subscribed"


def test_a_position_that_nobody_was_ever_given(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(redis_timeout=10)
    redis_server.publish_task("t", n=1)
    with redis_server.client() as admin:
        eventually(lambda: admin.exists(keys.meta("task:t")))
        epoch = admin.hget(keys.meta("task:t"), "epoch").decode()
    for offset in (2**53 + 1, 2**55):  # an id has no negative numbers
        identifier = EventId()
        identifier.set("task:t", Position(epoch, offset))
        made_up = identifier.encode().decode()
        url = f"http://127.0.0.1:{relay.port}/events?task=t"
        with httpx.stream("GET", url, headers={"Last-Event-ID": made_up}, timeout=20) as response:
            lines = response.iter_lines()
            assert "event: reset" in (next(lines) for _ in range(4))
            with relay.client("t"):  # which waits for no deadline
                pass
    assert "cannot be read" not in relay.logged()


REQUESTS = {
    "an answered request": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown path": b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    "a request without its body": b"POST /api/tasks/x/heartbeat HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "half a request": b"GET /healthz HTTP/1.1\r\nHo",
    "nothing": b"",
}


@pytest.mark.parametrize("hijack_sockets", ["true", "false"])
def test_a_connection_without_a_request_is_closed(
    hijack_sockets: str, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay(
        "hypercorn", hijack_sockets=hijack_sockets, heartbeat_interval=1, arguments=("--keep-alive", "1")
    )
    open_connections = {}
    for name, request in REQUESTS.items():
        connection = open_connections[name] = socket.create_connection(("127.0.0.1", relay.port), timeout=20)
        connection.sendall(request)
    # Those under way are not idle: a client, and a stream of events.
    with (
        relay.client("t") as client,
        httpx.stream("GET", f"http://127.0.0.1:{relay.port}/events?task=t", timeout=20) as events,
    ):
        for name, connection in open_connections.items():
            while connection.recv(65536):
                pass
            connection.close()
            print(name, "is closed")
        started = monotonic()
        heartbeats = (line for line in events.iter_lines() if line == ":")
        while monotonic() - started < 2.0:
            next(heartbeats)
        redis_server.publish_task("t", n=1)
        assert client.receive()["data"] == {"n": 1}
    eventually(lambda: connections_to(relay.port) == 0)


@pytest.mark.parametrize("hijack_sockets", ["true", "false"])
def test_a_full_relay_still_tells_how_it_does(
    hijack_sockets: str, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay(hijack_sockets=hijack_sockets, max_clients=1)
    with relay.client("t"), httpx.Client() as monitor:  # which keeps its connection
        for _ in range(2):
            assert monitor.get(f"http://127.0.0.1:{relay.port}/healthz").status_code == 200
            assert monitor.get(f"http://127.0.0.1:{relay.port}/readyz").json() == {"status": "full"}
            with connect(relay.url) as one_too_many, pytest.raises(ConnectionClosed, match="1013"):
                one_too_many.recv(20)
    eventually(relay.is_ready)


def test_operators_channels_are_no_tasks(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(extra_channels="task:*,agent:*")
    with relay.client("7") as of_task, relay.client() as of_channel:
        for name in ("task:7", "agent:x"):
            of_channel.send({"type": "subscribe", "channel": name})
            assert of_channel.receive() == {"type": "subscribed", "channel": name}
        for name in ("task:7", "agent:x"):
            redis_server.publish(name, '{"percent":5}')
            assert of_channel.receive() == {"percent": 5}
        redis_server.publish_task("7", n=1)
        assert of_task.receive()["data"] == {"n": 1}
        eventually(lambda: relay.metric('relay_updates_received_total{kind="plain"}') == 3)
        eventually(lambda: relay.metric('relay_updates_received_total{kind="persisted"}') == 3)


FAILING = """
from relay.broker.publish_ingester import PublishIngester
on_message = PublishIngester.on_message
def fail_or_not(self, update, message):
    if b"fail" in message:
        raise ZeroDivisionError
    on_message(self, update, message)
PublishIngester.on_message = fail_or_not
"""


@pytest.mark.parametrize("kind", ["hypercorn-supervised", "serve"])
def test_a_relay_that_fails_is_replaced_or_says_so(
    kind: Kind, redis_server: RedisServer, start_relay: StartRelay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    relay = start_relay(kind)
    (first,) = relay.worker_pids()
    redis_server.publish_task("t", fail=True)
    if kind == "serve":
        assert relay.wait() == 1
        assert "ClosedResourceError" not in relay.logged()
    else:
        eventually(lambda: is_replaced(relay, first))
        with relay.client("t") as client:
            redis_server.publish_task("t", n=1)
            assert client.receive()["data"] == {"n": 1}
    assert relay.logged().count('"event": "relay failed"') == 1


def is_replaced(relay: RelayServer, worker: int) -> bool:
    """Hypercorn has started another worker, which is ready."""
    assert relay.child.poll() is None, relay.logged()
    return worker not in relay.worker_pids() and relay.is_ready()
