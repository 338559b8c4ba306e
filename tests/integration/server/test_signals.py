"""Signals and workers that stop: each ends in order, in the promised time, and leaves nothing behind."""

import os
import re
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from relay.config import Settings
from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually
from tests.kernel import process_is_gone


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the relay makes its temporary directories."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    return place


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_drains(number: signal.Signals, redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay("serve")
    with relay.raw_client() as sock:
        relay.signal(number)
        assert sock.recv(4)[2:4] == (1001).to_bytes(2)
    assert relay.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_the_second_signal_ends_at_once(
    workers: int, redis_server: RedisServer, start_relay: StartRelay, place: Path
) -> None:
    relay = start_relay("serve", workers=workers, graceful_timeout=60, close_timeout=50)
    clients = [relay.raw_client() for _ in range(10)]
    pids = relay.worker_pids()
    started = time.monotonic()
    relay.signal(signal.SIGTERM)
    for sock in clients:
        assert sock.recv(4)[:1] == b"\x88"  # and it does not hang up
    relay.signal(signal.SIGTERM)
    assert relay.wait() == 0
    assert time.monotonic() - started < 20
    assert all(process_is_gone(pid) for pid in pids)
    assert list(place.iterdir()) == []


def test_a_signal_that_comes_while_it_starts_ends_it_in_order(start_relay: StartRelay, place: Path) -> None:
    relay = start_relay("serve", redis_url=None, wait=False)
    children = Path(f"/proc/{relay.pid}/task/{relay.pid}/children")
    (directory,) = eventually(lambda: list(place.glob("relay-redis-*")), every=0.001)
    (valkey,) = eventually(lambda: [int(pid) for pid in children.read_text().split()], every=0.001)
    relay.signal(signal.SIGTERM)
    assert relay.wait() == 0
    assert process_is_gone(valkey)
    assert not directory.exists()
    assert list(place.iterdir()) == []
    assert "Traceback" not in relay.logged()


def test_a_worker_that_is_stopped_is_replaced(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay("serve", workers=2, worker_timeout=3)
    eventually(lambda: relay.logged().count("redis subscription up") == 2)
    stopped, other = relay.worker_pids()
    os.kill(stopped, signal.SIGSTOP)
    eventually(lambda: "does not respond" in relay.logged())
    eventually(lambda: process_is_gone(stopped))
    eventually(lambda: len(set(relay.worker_pids()) - {stopped, other}) == 1)
    assert not process_is_gone(other)


def test_a_worker_that_is_stopped_does_not_hold_up_the_end(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay("serve", workers=2, graceful_timeout=4)
    eventually(lambda: relay.logged().count("redis subscription up") == 2)
    pids = relay.worker_pids()
    os.kill(pids[0], signal.SIGSTOP)
    started = time.monotonic()
    assert relay.terminate() == 0
    assert time.monotonic() - started < 4
    assert all(process_is_gone(pid) for pid in pids)


def test_the_gauges_of_a_dead_worker_go_with_it(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay("serve", workers=2)
    eventually(lambda: relay.logged().count("redis subscription up") == 2)
    killed, other = relay.worker_pids()
    clients = [relay.raw_client() for _ in range(20)]
    while not (_clients(killed, relay.port) and _clients(other, relay.port)):  # the kernel gives them to whom it likes
        clients.append(relay.raw_client())
    connected = 'relay_connections{transport="hijacked"}'
    eventually(lambda: relay.metric(connected) == len(clients))
    before = relay.metric('relay_connections_accepted_total{transport="hijacked"}')
    assert relay.metric("relay_connections_max") == 2 * Settings.model_fields["max_clients"].default
    cpu = re.findall(r"^process_cpu_seconds_total{(.*)}", relay.get("/metrics")[1], re.MULTILINE)
    assert cpu == ['worker="0"', 'worker="1"']
    for number in range(10):  # both workers receive them, and one of them stores each
        redis_server.publish_task("t", n=number)
    eventually(lambda: relay.metric("relay_plain_publishes_stored_total") == 10)
    eventually(lambda: relay.metric('relay_updates_received_total{kind="plain"}') == 20)
    assert relay.metric("relay_plain_publishes_stored_total") == 10
    left = len(clients) - _clients(killed, relay.port)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: process_is_gone(killed))
    # A process is gone before the last of its threads, with which the kernel closes its sockets.
    eventually(lambda: sum(map(_is_open, clients)) == left)
    assert 0 < left < len(clients)
    eventually(lambda: relay.metric(connected) == left)
    assert relay.metric('relay_connections_accepted_total{transport="hijacked"}') >= before
    assert relay.metric("relay_plain_publishes_stored_total") == 10
    eventually(lambda: relay.metric("relay_connections_max") == 2 * Settings.model_fields["max_clients"].default)


def _is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def _clients(pid: int, port: int) -> int:
    """How many connections to this port a process has."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it has just been closed
            found += str(descriptor.readlink()) in ours
    return found
