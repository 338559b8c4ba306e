"""The end of a relay: in stages, in time, with nothing left running; and the ungraceful one."""

import os
import re
import selectors
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.conftest import StartRelay
from tests.harness import Kind, RedisServer, RelayServer, eventually
from tests.kernel import process_is_gone

CLIENTS = 1000


@pytest.mark.parametrize("kind", ["hypercorn-supervised", "serve"])
def test_sigterm_with_a_thousand_clients(kind: Kind, redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(kind, graceful_timeout=15)
    clients = [relay.raw_client() for _ in range(CLIENTS)]
    relay.child.terminate()
    started = time.monotonic()
    received = dict.fromkeys(clients, b"")
    with selectors.DefaultSelector() as selector:
        for sock in clients:
            selector.register(sock, selectors.EVENT_READ)
        while selector.get_map():
            assert time.monotonic() - started < 15
            for key, _ in selector.select(1):
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                data = ready.recv(4096)
                received[ready] += data
                if not data:
                    selector.unregister(ready)
                    ready.close()
    assert relay.wait() == 0
    print(f"{CLIENTS} clients closed and the relay gone after {time.monotonic() - started:.2f} s")
    hints = [
        re.fullmatch(rb"\x88.\x03\xe9relay is shutting down; retry after (\d+\.\d\d) s", end)
        for end in received.values()
    ]
    assert all(hints), set(received.values())
    assert len({hint[1] for hint in hints if hint}) > 50, "each is asked to come back at another time"


@pytest.mark.parametrize("kind", ["hypercorn-supervised", "serve"])
def test_clients_that_do_not_hang_up_cannot_hold_up_the_end(
    kind: Kind, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay(kind, graceful_timeout=8, close_timeout=1)
    clients = [relay.raw_client("t", receive_buffer=4096) for _ in range(20)]
    redis_server.publish_task("t", filler="x" * 200_000)
    started = time.monotonic()
    assert relay.terminate() == 0
    assert time.monotonic() - started < 8
    for sock in clients:
        sock.close()


@pytest.mark.parametrize("kind", ["hypercorn-supervised", "uvicorn"])
def test_plain_asgi_clients_get_a_close_frame(kind: Kind, redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(kind, hijack_sockets="false")
    sock = relay.raw_client()
    relay.child.terminate()
    frame = sock.recv(4096)
    assert frame[0] == 0x88
    # uvicorn says goodbye itself, before it tells the app
    assert int.from_bytes(frame[2:4]) == (1001 if kind == "hypercorn-supervised" else 1012)
    sock.close()
    relay.wait()


def embedded_pid(relay: RelayServer) -> int:
    serving = relay.worker_pids()[0]
    children = Path(f"/proc/{serving}/task/{serving}/children").read_text().split()
    valkeys = [int(pid) for pid in children if b"valkey-server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(valkeys) == 1
    return valkeys[0]


@pytest.mark.parametrize("kind", ["hypercorn-supervised", "serve"])
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_embedded_redis_goes_with_the_relay(kind: Kind, end: signal.Signals, start_relay: StartRelay) -> None:
    relay = start_relay(kind, redis_url=None)
    valkey = embedded_pid(relay)
    os.kill(relay.worker_pids()[0] if end == signal.SIGKILL else relay.pid, end)
    eventually(lambda: process_is_gone(valkey), within=10)
    if end == signal.SIGTERM:
        assert relay.wait() == 0


def test_embedded_redis_is_started_again(start_relay: StartRelay) -> None:
    relay = start_relay("serve", redis_url=None)
    valkey = embedded_pid(relay)
    os.kill(valkey, signal.SIGKILL)
    eventually(lambda: "starting it again" in relay.logged())
    eventually(lambda: relay.get("/readyz")[0] == 200 and embedded_pid(relay) != valkey)


def test_workers_share_one_port_and_redis(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay("serve", workers=2)
    eventually(lambda: relay.logged().count("redis subscription up") == 2)
    first = set(relay.worker_pids())
    assert len(first) == 2
    with relay.client("t") as one, relay.client("t") as two:
        redis_server.publish_task("t", n=1)
        assert one.receive()["data"] == two.receive()["data"] == {"n": 1}
        eventually(lambda: relay.metric('relay_connections{transport="hijacked"}') == 2)
    killed = first.pop()
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(set(relay.worker_pids()) - {killed}) == 2)
    eventually(lambda: relay.logged().count("redis subscription up") == 3)
    workers = relay.worker_pids()
    assert relay.terminate() == 0
    assert all(process_is_gone(pid) for pid in workers)


def test_workers_have_the_embedded_redis_until_they_have_drained(start_relay: StartRelay) -> None:
    relay = start_relay("serve", redis_url=None, workers=2)
    clients = [relay.raw_client() for _ in range(40)]
    relay.child.terminate()
    for sock in clients:
        while sock.recv(4096):
            pass
        sock.close()
    assert relay.wait() == 0
    assert "redis subscription lost" not in relay.logged()


def test_workers_do_not_outlive_their_supervisor(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay("serve", workers=2)
    workers = relay.worker_pids()
    relay.kill()
    eventually(lambda: all(process_is_gone(pid) for pid in workers))


def test_worker_of_stock_hypercorn_does_not_outlive_it(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay("hypercorn-supervised")
    (worker,) = relay.worker_pids()
    assert worker != relay.pid
    os.kill(relay.pid, signal.SIGKILL)
    eventually(lambda: process_is_gone(worker))


def test_worker_that_is_still_starting_does_not_outlive_it_either(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay("hypercorn-supervised", wait=False)
    (worker,) = eventually(lambda: [pid for pid in relay.worker_pids() if pid != relay.pid])
    os.kill(relay.pid, signal.SIGKILL)
    eventually(lambda: process_is_gone(worker))
