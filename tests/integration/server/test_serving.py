"""The main job on real processes: a plain PUBLISH reaches a subscribed client, however the relay is run."""

import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import StartRelay
from tests.harness import PATIENCE, Kind, RedisServer, eventually

HANDSHAKE = (
    b"GET /ws/tasks HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize(
    "kind", ["hypercorn", "hypercorn-supervised", "hypercorn-asyncio", "hypercorn-tls", "uvicorn", "serve"]
)
def test_publish_reaches_subscriber(kind: Kind, redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(kind)
    options = relay.tls_options()
    with relay.client("t", **options) as client, relay.client(**options) as other:
        assert redis_server.publish_task("t", progress=40, note="é☃") == 1
        redis_server.publish_general(kind="news")
        assert client.receive() == {
            "type": "task_update",
            "task_id": "t",
            "data": {"progress": 40, "note": "é☃"},
        }
        news = {"type": "general_update", "data": {"kind": "news"}}
        assert client.receive() == news
        assert other.receive() == news
    expected = "hijacked" if kind in ("hypercorn", "hypercorn-supervised", "serve") else "asgi"
    if kind != "hypercorn-tls":
        assert relay.metric(f'relay_connections_accepted_total{{transport="{expected}"}}') == 2
    # uvicorn, when it has shut down in good order, ends by the signal that it was sent. Hypercorn on Trio leaves signals to
    # its supervisor.
    by_signal = ("uvicorn", "hypercorn", "hypercorn-tls")
    assert relay.terminate() == (-signal.SIGTERM if kind in by_signal else 0)


def test_several_workers_of_another_server_need_a_redis(start_relay: StartRelay) -> None:
    relay = start_relay("hypercorn-supervised", redis_url=None, wait=False, arguments=("-w", "2"))
    eventually(lambda: "several workers need one Redis for all: set REDIS_URL" in relay.logged())
    assert relay.wait() is not None
    assert relay.get("/healthz")[0] == 0


def test_files_that_run_out_leave_room_for_health_checks(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay("serve")
    limit = 200
    resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (limit, limit))
    clients = []
    for _ in range(limit + 50):
        sock = socket.create_connection(("127.0.0.1", relay.port))
        clients.append(sock)
    for sock in clients:
        try:
            sock.sendall(HANDSHAKE)
        except OSError:
            continue
    time.sleep(0.1)
    assert relay.get("/healthz")[0] == 200
    assert relay.get("/metrics")[0] == 200
    connected = relay.metric('relay_connections{transport="hijacked"}')
    assert limit / 2 < connected < limit - 64
    files = len(list(Path(f"/proc/{relay.pid}/fd").iterdir()))
    assert files < limit - 16
    for sock in clients:
        sock.close()
    eventually(lambda: relay.metric('relay_connections{transport="hijacked"}') == 0)
    with relay.client("t") as client:
        redis_server.publish_task("t", n=1)
        assert client.receive()["data"] == {"n": 1}


def test_as_many_files_may_be_opened_as_the_system_lets_us() -> None:
    source = (
        "import resource as r; from relay.processes import raise_file_limit as f; hard = r.getrlimit(r.RLIMIT_NOFILE)[1];"
        "r.setrlimit(r.RLIMIT_NOFILE, (256, hard)); f(); print(r.getrlimit(r.RLIMIT_NOFILE)[0], hard)"
    )
    soft, hard = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, check=True, text=True
    ).stdout.split()
    assert int(soft) == min(int(hard), 65536) if int(hard) > 0 else int(soft) == 65536


def test_the_first_client_misses_nothing_that_is_published_once_it_is_connected(
    shared_redis: RedisServer, share_relay: StartRelay
) -> None:
    """What is for everybody needs no subscription of the client's, and must not wait for one of the relay's."""
    relay = share_relay()
    with shared_redis.client() as publisher:
        publisher.ping()
        for number in range(200):
            with relay.client() as client:
                publisher.publish("general_updates", b'{"type":"general_update","data":{"n":%d}}' % number)
                assert client.receive(PATIENCE / 10)["data"] == {"n": number}


def test_general_updates_reach_clients_when_redis_has_lost_its_history(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    """No state stands for them: the first one after the loss is not to be left out."""
    relay = start_relay()
    with relay.client() as early, redis_server.client() as admin:
        for number in range(3):
            redis_server.publish_general(n=number)
            assert early.receive()["data"] == {"n": number}
            admin.flushall()
            with relay.client() as late:
                redis_server.publish_general(n=-number)
                assert [client.receive()["data"] for client in (early, late)] == [{"n": -number}] * 2
