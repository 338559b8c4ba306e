"""The benchmarks' own instruments: what is lost, doubled or late must show, or no figure is worth anything."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import redis
from hdrh.histogram import HdrHistogram
from relay_wire.publications import to_text
from websockets.sync.server import ServerConnection, serve

from benchmarks.compare import compared
from benchmarks.latency import Latencies
from benchmarks.load import Load, LoadFailed
from benchmarks.peers import PEERS
from benchmarks.peers.base import Peer
from benchmarks.peers.relay import DURABLE, PLAIN, RELAY, TLS_VARIANTS
from benchmarks.protocol import TASKS, Endpoint, Publishing
from benchmarks.publisher import AckCounter, Publisher, PublishFailed
from benchmarks.results import Check, Report, Results, Row
from benchmarks.tables import remark
from benchmarks.wire import Template, Update, make_update
from tests.harness import RedisServer
from tests.integration.benchmarks.instruments import update


@contextmanager
def fan_out(send: Callable[[ServerConnection], None]) -> Iterator[int]:
    """A server that answers a subscription and then does this; its port."""

    def handle(connection: ServerConnection) -> None:
        connection.recv()
        connection.send('{"type":"subscribed","task_id":"t"}')
        send(connection)
        for _ in connection:
            pass

    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("sequences", "wrong", "missing"),
    [([0, 1, 2], False, 0), ([0, 1], True, 2), ([0, 1, 2, 2], True, 0), ([0, 2, 1], True, 0)],
    ids=["whole", "lost", "doubled", "swapped"],
)
def test_a_server_that_loses_updates_is_found_out(sequences: list[int], wrong: bool, missing: int) -> None:
    go = threading.Event()

    def send(connection: ServerConnection) -> None:
        assert go.wait(20)
        for i in sequences:
            connection.send(update(i).decode())

    with fan_out(send) as port, Load(2) as load:
        load.connect(TASKS, port, ["t", "t"])
        assert load.arm(3) == 2
        go.set()
        received = load.collect(10, quiet=0.5)
    assert received.is_complete is not wrong
    assert received.missing == missing
    assert received.updates == 2 * len(sequences)


def test_several_generators_are_one_load() -> None:
    go = threading.Event()

    def send(connection: ServerConnection) -> None:
        assert go.wait(20)
        connection.send(update(0).decode())

    with fan_out(send) as port, Load(20_000) as load:
        connected = load.connect(TASKS, port, ["t"] * 3, notes=['"subscribed"'])
        assert (connected.clients, connected.failed, connected.noted['"subscribed"']) == (3, 0, 3)
        assert connected.ready.total == 3
        assert load.arm(1) == 3
        go.set()
        received = load.collect(10, quiet=0.5)
    assert received.is_complete
    assert (received.expected, received.readers, received.updates, received.latency.total) == (1, 3, 3, 3)


def test_a_server_that_hangs_up_is_found_out() -> None:
    go = threading.Event()

    def send(connection: ServerConnection) -> None:
        assert go.wait(20)
        connection.send(update(0).decode())
        connection.close()

    with fan_out(send) as port, Load(1) as load:
        load.connect(TASKS, port, ["t"])
        load.arm(2)
        go.set()
        received = load.collect(10, quiet=0.5)
    assert received.closed == 1
    assert not received.is_complete


def test_clients_that_cannot_get_in_are_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Load(3) as load, pytest.raises(LoadFailed, match="3 of 3"):
        load.connect(TASKS, port, ["t"] * 3, timeout=5)


def test_clients_that_were_dropped_come_back_with_their_positions() -> None:
    endpoint = Endpoint(
        "/ws/tasks", (('{"type":"subscribe","task_id":"{task}","position":{position}}', '"subscribed"'),)
    )
    received: list[str] = []

    def handle(connection: ServerConnection) -> None:
        for request in connection:
            received.append(str(request))
            connection.send('{"type":"subscribed","position":{"epoch":"e","offset":7},"recovered":true}')

    with serve(handle, "127.0.0.1", 0, compression=None) as server, Load(1) as load:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        load.connect(endpoint, port, ["t"])
        assert load.drop() == 1
        back = load.connect(endpoint, port, [], in_flight=1, retry=0.5, notes=['"recovered":true'])
        server.shutdown()
        thread.join()
    assert back.clients == 1
    assert back.noted == {'"recovered":true': 1}
    assert received == [
        '{"type":"subscribe","task_id":"t","position":null}',
        '{"type":"subscribe","task_id":"t","position":{"epoch":"e","offset":7}}',
    ]


_COMMAND = b"PUBLISH"


class Sink:
    """Takes what a publisher sends, after a while of not reading, and answers it."""

    def __init__(self, answer: bytes, pause: float) -> None:
        self._answer = answer
        self._pause = pause
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.data = bytearray()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Sink":
        self._thread.start()
        return self

    def wait(self) -> None:
        """Until the publisher has gone."""
        self._thread.join(20)

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._server.close()

    def _run(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            connection.settimeout(20)
            time.sleep(self._pause)
            while data := connection.recv(1 << 16):
                start = max(0, len(self.data) - len(_COMMAND) + 1)
                self.data += data
                connection.sendall(self._answer * self.data.count(_COMMAND, start))


def times_of(data: bytes | bytearray) -> list[int]:
    return [int(time) for time in re.findall(rb'"at":"(\d{19})"', data)]


def test_updates_carry_the_time_they_were_meant_for_even_when_the_server_stalls() -> None:
    with Sink(b":1\r\n", pause=0.4) as sink:
        with Publisher(PLAIN, sink.port) as publisher:
            publisher.use([make_update("t", 60_000)])
            published = publisher.paced(200, 1000.0)
        sink.wait()
    times = times_of(sink.data)
    assert len(times) == 200
    assert {later - earlier for earlier, later in pairwise(times)} <= {
        999_999,
        1_000_000,
        1_000_001,
    }
    assert times[0] == published.started
    assert published.late > 0.1  # it could not be sent in time, and that shows


def test_a_publisher_that_is_refused_says_so() -> None:
    with Sink(b"-OOM command not allowed\r\n", pause=0.0) as sink:
        with Publisher(PLAIN, sink.port) as publisher:
            publisher.use([make_update("t", 128)])
            with pytest.raises(PublishFailed, match="OOM"):
                publisher.burst(3)
        sink.wait()


@pytest.mark.parametrize("feed", [PLAIN, Publishing(), DURABLE])
def test_redis_takes_what_is_published(feed: Publishing, redis_server: RedisServer) -> None:
    with Publisher(feed, redis_server.port) as publisher:
        publisher.use([make_update("a", 160), make_update("b", 160), make_update(None, 160)])
        published = publisher.burst(5)
        took = publisher.round_trips(6)
    assert published.started <= published.sent <= published.acknowledged
    assert took.total == 6
    if feed is DURABLE:
        client: redis.Redis = redis_server.client()
        keys = {to_text(key) for key in client.keys("*")}
        assert any(key.endswith("task:a:log") for key in keys)
        assert any(key.endswith("general:log") for key in keys)
        state = next(key for key in keys if key.endswith("task:b:state"))
        assert set(client.hgetall(state)) == {b"sequence", b"at", b"pad"}
        client.close()


def test_answers_are_counted_across_reads_and_refusals_raised() -> None:
    acks = AckCounter(DURABLE)
    answer = b"*5\r\n$12\r\n0123456789ab\r\n:1\r\n:0\r\n:0\r\n:0\r\n"
    data = answer * 3
    assert sum(acks.count(data[i : i + 1]) for i in range(len(data))) == 3
    with pytest.raises(PublishFailed, match="NOSCRIPT"):
        acks.count(b"-NOSCRIPT No matching script\r\n")


def test_forms_have_the_size_that_was_asked_for() -> None:
    for task in ("t", None):
        for size in (128, 4096, 200_000):
            assert len(Template(make_update(task, size).payload).fill(99_999_999, 10**18)) == size
    with pytest.raises(ValueError, match="at least"):
        make_update("t", 20)
    percent = Template(Update("t", make_update("t", 128, b"%s").data).payload).fill(1, 2)
    assert b"%s%s" in percent


def test_histograms_keep_quantiles() -> None:
    latencies = Latencies()
    for i in range(1, 1001):
        latencies.add(i * 1_000_000)
    for fraction in (0.5, 0.99, 1.0):
        assert latencies.quantile(fraction) == pytest.approx(fraction, rel=0.01)
    twice = latencies + latencies
    assert twice.total == 2000
    assert twice.quantile(0.5) == latencies.quantile(0.5)
    assert HdrHistogram.decode(latencies.encoded()).get_total_count() == 1000


def test_peers_that_cannot_run_say_what_they_need() -> None:
    absent = Peer(
        "absent", "Absent", "absent", packages=("no-such-package",), programs=("no-such-program --version",),
        install="install it",
    )  # fmt: skip
    assert absent.missing() == "not installed: no-such-package, no-such-program (install it)"
    assert len({peer.name for peer in PEERS}) == len(PEERS) == 13


@pytest.mark.parametrize("peer", [*PEERS, RELAY, *TLS_VARIANTS], ids=lambda peer: peer.name)
def test_a_peers_command_and_configuration_can_be_filled_in(peer: Peer, tmp_path: Path) -> None:
    command, environ = peer.prepare(
        tmp_path, port=1, publish_port=2, redis_url="redis://127.0.0.1:3/0", key="key.pem", chain="chain.pem"
    )
    written = [path.read_text().replace("$arg_id", "") for path in tmp_path.iterdir()]
    assert not [text for text in (*command, *environ.values(), *written) if "$" in text]
    update = make_update("t", 160)
    published = Template(peer.publishing.command(update)).fill(1, 2)
    assert b"00000001" in published
    assert b"@@" not in published
    assert b"##" not in published


def report(**figures: float) -> Report:
    return Report("burst", "Burst", {"clients": 1}, ("rate", "p99"), [Row("relay", "", figures)])


def results(one: Report, **machine: object) -> Results:
    facts = {"cpu": "c", "cores": 2, "kernel": "k", "python": "p", "commit": "abc", **machine}
    return Results(facts, "tiny", 1, [one])


def test_comparing_tells_better_from_worse() -> None:
    text = compared(results(report(rate=100.0, p99=0.1)), results(report(rate=200.0, p99=0.2), cores=4))
    rate, p99 = (line for line in text.splitlines() if line.startswith("   relay"))
    assert rate.endswith("2.00  better")
    assert p99.endswith("2.00   worse")
    assert "not the same conditions: cores 2 against 4" in text


def test_a_saturated_load_is_named() -> None:
    assert remark(Row("relay", "", {"load_core": 0.95})) == "load saturated"
    assert remark(Row("relay", "", {"load_core": 0.5, "waited": 0.2})) == "others used its core"
    assert remark(Row("relay", "", {"load_core": 0.5}, complete=False)) == "lost updates"


def test_verdicts() -> None:
    assert Check("w", 1, 2, at_least=True).verdict == "missed"
    assert Check("w", 1, 2, at_least=True, clear=False).verdict == "unclear"
    assert Check("w", 1, 2, must=True, clear=False).verdict == "FAILED"
    assert Check("w", 1, 2, at_least=False).verdict == "met"
