"""Publishing to a cluster and to a master that Sentinels watch over, through fail-overs and a slot that moves."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from relay_wire import keys
from relay_wire.publications import Retention
from relay_wire.redis_urls import parse, sync_client

from tests.harness import PATIENCE, RedisServer, eventually
from tests.integration.client.flavours import FLAVOURS, Flavour, publisher
from tests.integration.client.reading import read_log
from tests.topologies import NAME, ClusterSetup, SentinelSetup

KEEP_ALL = Retention(history_size=1_000_000)

#: Enough to lie on all nodes.
TASKS = [f"t{number}" for number in range(12)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSetup]:
    with ClusterSetup(tmp_path_factory.mktemp("cluster")) as setup:
        yield setup


class Publishing:
    """Publishes to tasks in turn, until it is stopped; `wait_for_more` waits until it gets through again."""

    def __init__(self, client: Any, tasks: list[str]) -> None:
        self._client = client
        self._tasks = tasks
        self.stop = threading.Event()
        self.acknowledged = 0
        self._failure: Exception | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                number = self.acknowledged
                self._client.publish_task_update(self._tasks[number % len(self._tasks)], {"n": number})
                self.acknowledged += 1
        except Exception as error:  # noqa: BLE001 - raised in the test's own thread
            self._failure = error

    def wait_for_more(self) -> None:
        before = self.acknowledged
        eventually(lambda: self._failure is not None or self.acknowledged > before + 2 * len(self._tasks))
        if self._failure is not None:
            raise self._failure


def check_while(
    client: Any,
    tasks: list[str],
    trouble: Callable[[], None],
    reader: Callable[[], "redis.Redis | redis.RedisCluster"],
    *,
    exactly: bool = True,
) -> None:
    """Publish through some trouble: afterwards each task has its updates, in order and none twice. exactly: and all of them."""
    publishing = Publishing(client, tasks)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(publishing.run)
        try:
            publishing.wait_for_more()
            trouble()
            publishing.wait_for_more()
        finally:
            publishing.stop.set()
        running.result()
    with reader() as redis_client:
        for place, task in enumerate(tasks):
            log = read_log(redis_client, f"task:{task}")
            numbers = [data["n"] for _, _, data in log]
            expected = list(range(place, publishing.acknowledged, len(tasks)))
            if exactly:
                assert numbers == expected
                assert [offset for offset, _, _ in log] == list(range(1, len(log) + 1))
            else:
                assert numbers == sorted(set(numbers))
                assert set(numbers) <= set(expected)
                assert numbers[-1] == expected[-1]


def reader_of(cluster: ClusterSetup) -> "redis.Redis | redis.RedisCluster":
    return sync_client(parse(cluster.url))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_cluster_publishes_to_all_nodes_on_sharded_channels(flavour: Flavour, cluster: ClusterSetup) -> None:
    tasks = [f"{flavour}-{task}" for task in TASKS]
    assert len({cluster.primary_of(f"task:{task}").port for task in tasks}) == 3
    feed = keys.pubsub_channel(f"task:{tasks[0]}")
    with cluster.primary_of(f"task:{tasks[0]}").client() as node, publisher(flavour, cluster.url) as client:
        received = node.pubsub()
        received.ssubscribe(feed)
        for task in tasks:
            assert client.publish_task_update(task, {"status": "in_progress"}).offset == 1
        message = eventually(
            lambda: (found := received.get_sharded_message(timeout=0.1)) and found["type"] == "smessage" and found
        )
        assert message["data"].endswith(b' 1 task_update\n{"status":"in_progress"}')
        received.close()
        assert client.publish_general_update({"a": 1}).offset >= 1
        client.publish_task_update(tasks[0], {"progress": 1}, durable=False)


def test_cluster_slot_that_moves(cluster: ClusterSetup) -> None:
    tasks = [f"moving-{task}" for task in TASKS]
    channel = f"task:{tasks[0]}"
    source = cluster.primary_of(channel)
    target = next(node for node in cluster.nodes[:3] if node is not source)
    with publisher("threads", cluster.url, retention=KEEP_ALL) as client:
        check_while(client, tasks, lambda: cluster.move_slot(channel, source, target), lambda: reader_of(cluster))
        cluster.move_slot(channel, target, source)


@pytest.mark.parametrize("flavour", ["threads", "asyncio"])
def test_cluster_node_that_is_handed_over(flavour: Flavour, cluster: ClusterSetup) -> None:
    """A planned fail-over loses nothing."""
    tasks = [f"over-{flavour}-{task}" for task in TASKS]
    primary = cluster.nodes[0 if flavour == "threads" else 1]
    with publisher(flavour, cluster.url, retention=KEEP_ALL, timeout=1.0) as client:
        check_while(client, tasks, lambda: cluster.hand_over(primary), lambda: reader_of(cluster))


def test_sentinels_are_followed(tmp_path: Path) -> None:
    """And where one of them hangs the next one is asked."""
    with SentinelSetup(tmp_path) as setup, setup.sentinels[1].client() as sentinel:
        before = _master(sentinel)
        publishing = ("threads", "asyncio")
        meeting = threading.Barrier(len(publishing), timeout=PATIENCE)

        def fail_over() -> None:
            """Once both get through, and for both."""
            if meeting.wait() == 0:
                setup.sentinels[1].hand_over()
                eventually(lambda: _master(sentinel) != before)
                # It would take updates for some seconds, before it hears that it is no master.
                setup.servers[before].kill()
            meeting.wait()

        def publish(flavour: Flavour) -> None:
            with publisher(flavour, setup.url, retention=KEEP_ALL, timeout=1.0) as client:
                # What the replica had not got when it took over is gone: Sentinel does not wait for it.
                check_while(client, [flavour], fail_over, lambda: _other(setup, before).client(), exactly=False)

        setup.sentinels[0].freeze()
        try:
            with ThreadPoolExecutor(2) as pool:
                for each in [pool.submit(publish, flavour) for flavour in FLAVOURS if flavour in publishing]:
                    each.result()
        finally:
            setup.sentinels[0].thaw()


def _master(sentinel: redis.Redis) -> int:
    _, port = sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", NAME)  # type: ignore[no-untyped-call]
    return int(port)


def _other(setup: SentinelSetup, port: int) -> RedisServer:
    return next(server for server in setup.servers.values() if server.port != port)
