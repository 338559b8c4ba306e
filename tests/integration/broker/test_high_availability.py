"""Sentinel and Cluster, of real servers: what is acknowledged arrives through fail-overs, planned and not."""

import http.client
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any, cast

import msgspec
import pytest
import redis
import trio
from websockets.sync.client import connect

from relay.broker.opening import open_redis
from relay.broker.server_info import ServerInfo
from relay.broker.service import RedisBroker
from relay.config import RedisSettings, Settings
from relay.core.errors import BrokerUnavailable
from relay.core.updates import Position
from tests.harness import PATIENCE, RelayServer, eventually
from tests.topologies import ClusterSetup, SentinelSetup

NO_REDIS_SETTINGS = cast(Any, RedisSettings)(_env_file=None)

#: Channels enough to lie on all nodes of a cluster.
TASKS = [f"t{number}" for number in range(12)]


def settings_with(**values: object) -> Settings:
    """Settings that no environment of this machine changes."""
    return cast(Settings, cast(Any, Settings)(_env_file=None, **values))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSetup]:
    with ClusterSetup(tmp_path_factory.mktemp("cluster")) as setup:
        yield setup


@pytest.fixture
def fresh_cluster(tmp_path: Path) -> Iterator[ClusterSetup]:
    with ClusterSetup(tmp_path) as setup:
        yield setup


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[SentinelSetup]:
    with SentinelSetup(tmp_path) as setup:
        yield setup


def relay_on(url: str, directory: Path, **settings: Any) -> RelayServer:
    directory.mkdir(parents=True, exist_ok=True)
    # The watchers read when all is over. Nothing is coalesced meanwhile, however fast the machine is.
    settings |= {"coalesce_after": 10_000, "queue_messages": 10_001}
    return RelayServer(directory, url, redis_health_interval=0.3, redis_timeout=1.0, **settings)


class Watcher:
    """Follows tasks over one connection, with positions, and keeps what it got."""

    def __init__(self, relay: RelayServer, tasks: Sequence[str]) -> None:
        self.numbers: dict[str, list[int]] = defaultdict(list)
        self.resets = 0
        self._stack = ExitStack()
        self._connection = self._stack.enter_context(connect(relay.url, open_timeout=PATIENCE))
        for task in tasks:
            self._connection.send(
                msgspec.json.encode({"type": "subscribe", "task_id": task, "position": None}).decode()
            )
        self._waiting = set(tasks)
        while self._waiting:
            self.read()

    def read(self, timeout: float = PATIENCE) -> None:
        message = msgspec.json.decode(self._connection.recv(timeout))
        if message["type"] == "subscribed":
            if message["task_id"] in self._waiting:
                self._waiting.discard(message["task_id"])
            else:
                self.resets += 1
                assert message["recovered"] is False
        elif message["type"] == "task_update" and "n" in message["data"]:
            self.numbers[message["task_id"]].append(message["data"]["n"])

    def read_until(self, check: Callable[[], bool]) -> None:
        while not check():
            self.read()

    def has_last(self, last: dict[str, int]) -> bool:
        return all(self.numbers[task] and self.numbers[task][-1] == number for task, number in last.items())

    def close(self) -> None:
        self._stack.close()


class Publisher:
    """Numbers its updates, tries again under the same key until each is acknowledged, and goes on until told to stop."""

    def __init__(self, url: str, replicas: int) -> None:
        self._url = url
        self._settings = settings_with(redis_timeout=1.0, wait_replicas=replicas)
        self.acknowledged: dict[str, int] = {}

    async def publish_each(self, redis: RedisBroker, number: int, tasks: Sequence[str]) -> None:
        for task in tasks:
            data = msgspec.json.encode({"status": "in_progress", "n": number})
            with trio.fail_after(PATIENCE):
                while True:
                    try:
                        await redis.publish_durably(
                            f"task:{task}", "task_update", data, idempotency_key=f"{task}-{number}"
                        )
                        break
                    except BrokerUnavailable:
                        await trio.sleep(0.05)
            self.acknowledged[task] = number

    async def run_during(self, tasks: Sequence[str], fault: Callable[[], None], seconds: float) -> None:
        """Publish for some seconds; in the middle of it the fault happens."""
        async with open_redis(self._url, self._settings, NO_REDIS_SETTINGS) as redis:
            number = 0
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:

                    async def break_something() -> None:
                        await trio.sleep(seconds / 4)
                        await trio.to_thread.run_sync(fault)

                    nursery.start_soon(break_something)
                    while True:
                        number += 1
                        await self.publish_each(redis, number, tasks)
                        await trio.sleep(0.02)
            # Whatever was under way is published to its end: it may be there.
            await self.publish_each(redis, number, tasks)
            await self.publish_each(redis, number + 1, tasks)


def is_a_run(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[-1] + 1))


def through_a_fault(
    url: str, directory: Path, fault: Callable[[], None], *, replicas: int = 0, seconds: float = 4.0
) -> tuple[list[Watcher], dict[str, int]]:
    """Publish while something breaks, with two relays that each have a watcher; returns when all is delivered."""
    publisher = Publisher(url, replicas)
    with relay_on(url, directory / "a") as one, relay_on(url, directory / "b") as two:
        watchers = [Watcher(one, TASKS), Watcher(two, TASKS)]
        trio.run(publisher.run_during, TASKS, fault, seconds)
        for watcher in watchers:
            watcher.read_until(partial(watcher.has_last, publisher.acknowledged))
            watcher.close()
    return watchers, publisher.acknowledged


# A cluster.


def test_a_cluster_serves_tasks_of_all_nodes(cluster: ClusterSetup, tmp_path: Path) -> None:
    assert all(ServerInfo.parse(cluster.info(node)).is_cluster for node in cluster.nodes)
    publisher = Publisher(cluster.url, 1)
    assert len({cluster.primary_of(f"task:{task}").port for task in TASKS}) == 3
    with relay_on(cluster.url, tmp_path / "relay", task_stall_seconds=1.0) as relay:
        watcher = Watcher(relay, TASKS)
        trio.run(publisher.run_during, TASKS, lambda: None, 1.0)
        watcher.read_until(lambda: watcher.has_last(publisher.acknowledged))
        assert all(is_a_run(watcher.numbers[task]) for task in TASKS)
        assert watcher.resets == 0
        watcher.close()
        # The lists of all buckets are one list, in pages.
        seen: list[str] = []
        after = ""
        while True:
            page = msgspec.json.decode(relay.get(f"/api/tasks?limit=5{after}")[1])
            seen += [task["task_id"] for task in page["tasks"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert sorted(seen) == sorted(TASKS)
        for task in TASKS:
            used = f'relay_redis_memory_used_bytes{{server="127.0.0.1:{cluster.primary_of(f"task:{task}").port}"}}'
            eventually(lambda used=used: relay.metric(used) > 0)  # type: ignore[misc]
        # Supervision works on each node.
        eventually(lambda: all('"stalled":true' in relay.get(f"/api/tasks/{task}")[1] for task in TASKS))


def test_a_cluster_takes_plain_publishes(cluster: ClusterSetup, tmp_path: Path) -> None:
    with relay_on(cluster.url, tmp_path / "relay") as relay:
        with relay.client("plain-1", "plain-2", "plain-3") as client:
            for number, task in enumerate(("plain-1", "plain-2", "plain-3")):
                cluster.nodes[number].publish_task(task, a=number)
                assert client.receive() == {"type": "task_update", "task_id": task, "data": {"a": number}}
        assert '"a":1' in relay.get("/api/tasks/plain-2")[1]


def test_a_cluster_refuses_subscriptions_with_children(cluster: ClusterSetup, tmp_path: Path) -> None:
    """With an error that says so, and without an effect on other subscriptions."""
    with relay_on(cluster.url, tmp_path / "relay") as relay:
        with relay.client() as client:
            client.send({"type": "subscribe", "task_id": "plain-1", "children": True, "position": None})
            refused = client.receive()
            assert (refused["type"], refused["code"], refused["task_id"]) == ("error", "no_children", "plain-1")
            assert "cluster" in refused["message"]
            client.subscribe("plain-1")
            cluster.nodes[0].publish_task("plain-1", b=1)
            while client.receive()["data"] != {"b": 1}:
                pass  # its state, where a former test has left one
        with closing(http.client.HTTPConnection("127.0.0.1", relay.port, timeout=PATIENCE)) as connection:
            connection.request("GET", "/events?task=plain-1&children=1")
            answer = connection.getresponse()
            lines = [answer.readline() for _ in range(4)]
            assert lines[2] == b"event: error\n"
            assert b'"code":"no_children"' in lines[3]


def test_a_slot_that_moves_takes_its_feed_with_it(cluster: ClusterSetup, tmp_path: Path) -> None:
    source = cluster.primary_of("task:mover")
    target = next(node for node in cluster.nodes[:3] if node is not source)

    async def publish(number: int) -> Position | None:
        settings = settings_with()
        async with open_redis(cluster.url, settings, NO_REDIS_SETTINGS) as redis:
            return await redis.publish_task_update("mover", {"n": number})

    with relay_on(cluster.url, tmp_path / "relay") as relay:
        watcher = Watcher(relay, ["mover"])
        trio.run(publish, 1)
        watcher.read_until(lambda: watcher.numbers["mover"] == [1])
        cluster.move_slot("task:mover", source, target)
        for number in (2, 3):
            trio.run(publish, number)
        watcher.read_until(lambda: watcher.numbers["mover"] == [1, 2, 3])
        assert watcher.resets == 0
        watcher.close()
        cluster.move_slot("task:mover", target, source)


def test_a_planned_failover_of_a_cluster_node_loses_nothing(cluster: ClusterSetup, tmp_path: Path) -> None:
    node = cluster.primary_of(f"task:{TASKS[0]}")
    watchers, _ = through_a_fault(cluster.url, tmp_path, lambda: cluster.hand_over(node))
    for watcher in watchers:
        assert watcher.resets == 0
        assert all(is_a_run(watcher.numbers[task]) for task in TASKS)


def test_a_killed_primary_loses_nothing_that_was_acknowledged(fresh_cluster: ClusterSetup, tmp_path: Path) -> None:
    node = fresh_cluster.primary_of(f"task:{TASKS[0]}")

    def kill() -> None:
        node.kill()
        sleep(4.0)  # meanwhile its replica takes over; nothing of this shard counts until that has a replica itself
        trio.from_thread.run_sync(
            node.start
        )  # in the main thread: the kernel ends a child with the thread that started it

    watchers, acknowledged = through_a_fault(fresh_cluster.url, tmp_path / "relays", kill, replicas=1, seconds=8.0)
    assert set(acknowledged) == set(TASKS)
    for watcher in watchers:
        for task in TASKS:
            # A gap is announced for what a relay has delivered and the new primary does not have, and for nothing else.
            assert is_a_run(watcher.numbers[task]) or watcher.resets, watcher.numbers[task]
            assert sorted(set(watcher.numbers[task])) == watcher.numbers[task] or watcher.resets


# Sentinel.


def test_a_planned_failover_by_sentinel_loses_nothing(sentinels: SentinelSetup, tmp_path: Path) -> None:
    before = sentinels.master
    watchers, _ = through_a_fault(sentinels.url, tmp_path / "relays", sentinels.hand_over, replicas=1, seconds=6.0)
    eventually(lambda: sentinels.master is not before)
    for watcher in watchers:
        # Sentinel does not wait for the replica: what the new master does not have of it is announced as a gap.
        assert all(is_a_run(watcher.numbers[task]) for task in TASKS) or watcher.resets


def test_a_killed_master_loses_nothing_that_was_acknowledged(sentinels: SentinelSetup, tmp_path: Path) -> None:
    before = sentinels.master
    # No replica is left then whose word could be waited for.
    watchers, _ = through_a_fault(sentinels.url, tmp_path / "relays", before.kill, seconds=6.0)
    assert sentinels.master is not before
    for watcher in watchers:
        assert all(is_a_run(watcher.numbers[task]) for task in TASKS) or watcher.resets


def test_what_no_replica_has_is_not_acknowledged(sentinels: SentinelSetup) -> None:
    master = sentinels.master
    (replica,) = (server for server in sentinels.servers.values() if server is not master)
    settings = settings_with(redis_timeout=0.5, wait_replicas=1)

    async def publish(key: str) -> Position | BrokerUnavailable | None:
        async with open_redis(sentinels.url, settings, NO_REDIS_SETTINGS) as service:
            try:
                return await service.publish_durably("task:r", "task_update", b"{}", idempotency_key=key)
            except BrokerUnavailable as error:
                return error

    assert trio.run(publish, "first") is not None
    replica.freeze()
    try:
        assert "0 replicas" in str(trio.run(publish, "second"))
    finally:
        replica.thaw()
    position = trio.run(publish, "second")
    assert isinstance(position, Position)
    assert position.offset == 2
    with redis.Redis(port=replica.port) as client:
        assert client.ping()


def test_a_sentinel_that_hangs_is_passed_over(sentinels: SentinelSetup, tmp_path: Path) -> None:
    sentinels.sentinels[0].freeze()
    try:
        with relay_on(sentinels.url, tmp_path / "relay") as relay:
            assert relay.get("/readyz")[0] == 200
    finally:
        sentinels.sentinels[0].thaw()
