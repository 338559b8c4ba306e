"""Several real Valkey servers that belong together: a master with replicas and Sentinels, and a cluster."""

from contextlib import ExitStack
from pathlib import Path
from typing import Self

import redis
from redis.crc import key_slot
from relay_wire import keys

from relay.broker.embedded import server_binary
from relay.processes import start_child
from tests.harness import RedisServer, Server, eventually
from tests.ports import free_port

NAME = "mymaster"


class _Sentinel(Server):
    name = "sentinel"

    def __init__(self, directory: Path, master: int, quorum: int) -> None:
        super().__init__(directory)
        self.port = free_port()
        config = directory / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {master} {quorum}\n"
            f"sentinel down-after-milliseconds {NAME} 700\nsentinel failover-timeout {NAME} 4000\n"
        )
        with self.log.open("ab") as log:
            self._child = start_child([str(server_binary()), str(config), "--sentinel"], stdout=log, stderr=log)
        eventually(self._looks_often)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5.0)

    def _looks_often(self) -> bool:
        """It asks its servers every second instead of every 10 s, and tells the other Sentinels every 200 ms, not every 2 s."""
        with self.client() as client:
            try:
                client.execute_command("SENTINEL DEBUG", "INFO-PERIOD", 1000, "PUBLISH-PERIOD", 200)
            except redis.RedisError:
                return False
        return True

    def sees_all(self) -> bool:
        """It knows the replica and both other Sentinels."""
        with self.client() as client:
            try:
                replicas = client.execute_command("SENTINEL REPLICAS", NAME)
                sentinels = client.execute_command("SENTINEL SENTINELS", NAME)
            except redis.RedisError:
                return False
        if len(sentinels) != 2 or len(replicas) != 1:
            return False
        replica = _fields(replicas[0])
        return b"down" not in b",".join(replica[b"flags"]) and replica[b"master-link-status"] == [b"ok"]

    def hand_over(self) -> None:
        """A planned fail-over, as for maintenance; asked for until the replica is fit for it."""

        def is_begun() -> bool:
            with self.client() as client:
                try:
                    client.execute_command("SENTINEL FAILOVER", NAME)
                except redis.ResponseError as error:
                    if "NOGOODSLAVE" in str(error):
                        return False
                    raise
            return True

        eventually(is_begun)


def _fields(answer: object) -> dict[bytes, list[bytes]]:
    """An entry of a Sentinel's answer, with its values split, in RESP2's or RESP3's form."""
    items = answer.items() if isinstance(answer, dict) else zip(*[iter(answer)] * 2, strict=True)  # type: ignore[call-overload]
    return {bytes(name): bytes(value).split(b",") for name, value in items}


def _start(stack: ExitStack, directory: Path, *options: str, port: int = 0) -> RedisServer:
    directory.mkdir()
    return stack.enter_context(RedisServer(directory, "--save", "", *options, port=port))


class SentinelSetup:
    """A master, a replica, and three Sentinels of which two must agree."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            fast = ("--repl-diskless-sync-delay", "0")
            first = _start(stack, self._directory / "first", *fast)
            second = _start(stack, self._directory / "second", *fast, "--replicaof", f"127.0.0.1 {first.port}")
            self.servers = {server.port: server for server in (first, second)}
            self.sentinels = []
            for number in range(3):
                directory = self._directory / f"sentinel{number}"
                directory.mkdir()
                self.sentinels.append(stack.enter_context(_Sentinel(directory, first.port, 2)))
            for sentinel in self.sentinels:
                eventually(sentinel.sees_all)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{NAME}/0"

    @property
    def master(self) -> RedisServer:
        """Whom the first Sentinel takes for the master."""
        with self.sentinels[0].client() as client:
            _, port = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", NAME)
        return self.servers[int(port)]

    def hand_over(self) -> None:
        """A planned fail-over, as for maintenance."""
        self.sentinels[0].hand_over()


class ClusterSetup:
    """Three primaries, each with a replica."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.nodes = [self._node(stack, number) for number in range(6)]
            ids = [self._call(node, "CLUSTER", "MYID").decode() for node in self.nodes]
            bounds = [0, 5461, 10923, 16384]
            for number in range(3):
                self._call(self.nodes[number], "CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
                self._call(self.nodes[number], "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for node, bus in zip(self.nodes[1:], self._buses[1:], strict=True):
                self._call(self.nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port, bus)
            for number, node in enumerate(self.nodes):
                eventually(lambda node=node: self._info(node).count(b"\n") >= 6)  # type: ignore[misc]
                if number >= 3:
                    eventually(
                        lambda node=node, number=number: (
                            self._try(node, "CLUSTER", "REPLICATE", ids[number - 3]) == b"OK"
                        )  # type: ignore[misc]
                    )
            for node in self.nodes:
                eventually(lambda node=node: b"cluster_state:ok" in self._call(node, "CLUSTER", "INFO"))  # type: ignore[misc]
            for node in self.nodes[3:]:
                eventually(lambda node=node: b"master_link_status:up" in self._call(node, "INFO", "replication"))  # type: ignore[misc]
            self._stack = stack.pop_all()
        return self

    def _node(self, stack: ExitStack, number: int) -> RedisServer:
        if number == 0:
            self._buses: list[int] = []
        bus = free_port()
        self._buses.append(bus)
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", str(bus))
        return _start(stack, self._directory / f"node{number}", *options, "--repl-diskless-sync-delay", "0")

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes[:3])}"

    @staticmethod
    def _call(node: RedisServer, *command: object) -> bytes:
        # Bytes as they come: redis-py would make its own structures of some of these.
        with redis.Redis(port=node.port, socket_timeout=5.0) as client:
            client.response_callbacks.clear()
            answer = client.execute_command(*command)
            return answer if isinstance(answer, bytes) else str(answer).encode()

    def info(self, node: RedisServer) -> str:
        """What a node says of itself."""
        return self._call(node, "INFO", "server").decode()

    def _try(self, node: RedisServer, *command: object) -> bytes:
        try:
            return self._call(node, *command)
        except redis.RedisError as error:
            return str(error).encode()

    def _info(self, node: RedisServer) -> bytes:
        return self._call(node, "CLUSTER", "NODES")

    def replica_of(self, primary: RedisServer) -> RedisServer:
        """The replica that was given to one of the first three nodes."""
        return self.nodes[self.nodes.index(primary) + 3]

    def primary_of(self, channel: str) -> RedisServer:
        """Which of the first three nodes serves a channel, as long as nothing has been moved."""
        slot = key_slot(keys.tag_of(keys.pubsub_channel(channel)).encode())
        return self.nodes[min(slot // 5461, 2)]

    def hand_over(self, primary: RedisServer) -> None:
        """A planned fail-over, as for maintenance."""
        replica = self.replica_of(primary)
        self._call(replica, "CLUSTER", "FAILOVER")
        eventually(lambda: b"role:master" in self._call(replica, "INFO", "replication"))

    def move_slot(self, channel: str, source: RedisServer, target: RedisServer) -> None:
        """Move the slot of a channel, with all its keys, from one primary to another."""
        slot = key_slot(keys.tag_of(keys.pubsub_channel(channel)).encode())
        ids = {node.port: self._call(node, "CLUSTER", "MYID").decode() for node in (source, target)}
        self._call(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        self._call(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        with source.client() as client:
            while names := client.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
                client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names)
        for node in (target, source, *(other for other in self.nodes[:3] if other not in (source, target))):
            self._call(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
