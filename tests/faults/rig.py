"""The servers, publishers and clients of a fault run, and the faults that it injects."""

import os
import random
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from relay.broker.embedded import start_server, wait_until_ready
from relay.broker.opening import open_redis
from relay.broker.service import RedisBroker
from relay.config import RedisSettings, Settings
from relay.core.errors import BrokerError
from tests.faults.proxy import Proxy
from tests.faults.report import FaultReport, UpdateChecker
from tests.harness import RedisServer, RelayServer

TASKS = tuple(f"numbered-{number}" for number in range(4))
PLAIN_TASKS = ("plain-0",)
CLIENTS = 20
#: Seconds between two updates of one task. All clients run in this process, which must read everything much faster.
UPDATE_INTERVAL = 0.04

#: Bytes of an update, and of one that is published while clients are stalled. The latter must fill the smallest buffers, and
#: be small enough for this process to read in time.
SIZE = 1000
STALLING_SIZE = 3_000

#: Seconds that the clients have at the end to receive everything.
PATIENCE = 60.0

_RELAY_SETTINGS: dict[str, Any] = {
    "redis_timeout": 1,
    "redis_health_interval": 0.5,
    "graceful_timeout": 3,
    "close_timeout": 0.5,
    "queue_max_age": 1,
    # A coalesced update replaces several, which would look like a gap.
    "coalesce_after": 8000,
    "history_size": 20_000,
    "queue_bytes": 64 * 1024 * 1024,
    "max_client_errors": 1000,
}


class Valkey(RedisServer):
    """A Valkey that keeps its data on disk. `start` does not wait until it answers."""

    def start(self) -> None:
        self._child = start_server(self.port, self.directory, *self.options)


class FaultRig:
    """All servers and clients of a run, and the faults that can be injected into them."""

    def __init__(self, valkey: Valkey, nursery: trio.Nursery, report: FaultReport, log: Callable[[str], None]) -> None:
        self.valkey = valkey
        self.report = report
        self.log = log
        self.to_redis = [Proxy(valkey.port) for _ in range(2)]
        self.to_relay: list[Proxy] = []
        self.relays: list[RelayServer] = []
        self.checkers: list[UpdateChecker] = []
        self.last: dict[str, int] = {}
        self._size = SIZE
        self._nursery = nursery
        self._publishing = trio.CancelScope()

    def problem(self, text: str) -> None:
        if text not in self.report.problems:
            self.report.add_problem(text)
        self.log(text)

    async def start(self, directory: Path) -> None:
        await wait_until_ready(self.valkey.port)
        for number, proxy in enumerate(self.to_redis):
            await self._nursery.start(proxy.run)
            home = directory / f"relay{number + 1}"
            home.mkdir()
            relay = RelayServer(home, f"redis://127.0.0.1:{proxy.port}/0", wait=False, **_RELAY_SETTINGS)
            self.relays.append(relay)
        for relay in self.relays:
            front = Proxy(relay.port)
            await self._nursery.start(front.run)
            self.to_relay.append(front)
            await self.until_ready(relay)

    async def until_ready(self, relay: RelayServer) -> None:
        with trio.fail_after(PATIENCE):
            while not await trio.to_thread.run_sync(relay.is_ready):  # noqa: ASYNC110 - another process
                await trio.sleep(0.05)

    # Publishers.

    async def publish(self, redis: RedisBroker) -> None:
        """Publish until `stop_publishing`, and finish the updates that were begun."""
        async with trio.open_nursery() as nursery:
            for task_id in TASKS:
                nursery.start_soon(self._publish_durably, redis, task_id)
            for task_id in PLAIN_TASKS:
                nursery.start_soon(self._publish_plainly, redis, task_id)

    def stop_publishing(self) -> None:
        self._publishing.cancel()

    async def _publish_durably(self, redis: RedisBroker, task_id: str) -> None:
        number = 0
        while not self._publishing.cancel_called:
            number += 1
            data = msgspec.json.encode({"n": number, "pad": "." * self._size})
            while True:
                try:
                    position = await redis.publish_durably(
                        f"task:{task_id}", "task_update", data, idempotency_key=f"{task_id}/{number}"
                    )
                except BrokerError:
                    await trio.sleep(0.05)
                else:
                    break
            if position is not None:
                self.report.acknowledged += 1
                self.report.epochs.setdefault(task_id, set()).add(position.epoch)
                self.last[task_id] = position.offset
            await trio.sleep(UPDATE_INTERVAL)

    async def _publish_plainly(self, redis: RedisBroker, task_id: str) -> None:
        number = 0
        while not self._publishing.cancel_called:
            number += 1
            message = {"type": "task_update", "task_id": task_id, "data": {"n": number}}
            try:
                await redis.publish("task_updates", msgspec.json.encode(message))
            except BrokerError:
                continue  # like any plain publisher, which cannot know whether it was published
            self.report.plain_published += 1
            await trio.sleep(UPDATE_INTERVAL)

    async def record_plain_order(self) -> None:
        """Subscribe to plain publishes directly at Redis, and note the order in which it delivers them. A Redis that was frozen
        reads its sockets in any order."""
        ranks = self.report.plain_order
        while True:
            try:
                async with await trio.open_tcp_stream("127.0.0.1", self.valkey.port) as stream:
                    await stream.send_all(b"SUBSCRIBE task_updates\r\n")
                    received = b""
                    async for some in stream:
                        received += some
                        end = 0
                        for found in re.finditer(rb'"n":(\d+)}', received):
                            ranks[int(found[1])] = len(ranks)
                            end = found.end()
                        received = received[end:]
            except (OSError, trio.BrokenResourceError):
                pass
            await trio.sleep(0.02)

    # Clients.

    async def client(self, number: int, draw: random.Random) -> None:
        """Follow some tasks through any relay that can be reached, and resume after each lost connection."""
        chosen = [TASKS[number % len(TASKS)], TASKS[(number + 1) % len(TASKS)], *PLAIN_TASKS]
        checkers = {
            task_id: UpdateChecker(f"client {number}", task_id, self.report, task_id in PLAIN_TASKS, self.problem)
            for task_id in chosen
        }
        self.checkers += checkers.values()
        relay = number % 2
        while True:
            try:
                await self._connect(self.to_relay[relay].port, checkers)
            except* ConnectionClosed:
                pass
            except* (HandshakeError, OSError, trio.TooSlowError):
                relay = 1 - relay
            await trio.sleep(0.05 + 0.15 * draw.random())

    async def _connect(self, port: int, checkers: dict[str, UpdateChecker]) -> None:
        """Use one connection until it ends. It has its own nursery: trio-websocket's would never end if the answer to the
        handshake arrives just after the time-out."""
        with trio.fail_after(2):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(2):
                    connection = await wrap_client_stream(nursery, stream, "relay", "/ws/tasks")
                self.report.connections += 1
                await self._follow(connection, checkers)
        finally:
            await trio.aclose_forcefully(stream)

    async def _follow(self, connection: WebSocketConnection, checkers: dict[str, UpdateChecker]) -> None:
        asked = list(checkers)  # not yet answered; answers come in this order
        for task_id in asked:
            await self._subscribe(connection, checkers[task_id])
        while True:
            with trio.fail_after(10):  # like real clients, give up a silent connection
                message: Any = msgspec.json.decode(await connection.get_message())
            match message:
                case {"type": "subscribed", "task_id": task_id, "position": position}:
                    if asked[:1] == [task_id]:
                        del asked[0]
                    checkers[task_id].subscribed(position["epoch"], position["offset"], message.get("recovered"))
                case {"type": "task_update", "task_id": task_id, "position": position, "data": {"n": n}}:
                    checkers[task_id].update(position["epoch"], position["offset"], n)
                case {"type": "error", "code": "unavailable"}:
                    await trio.sleep(0.1)
                    asked.append(asked.pop(0))
                    await self._subscribe(connection, checkers[asked[-1]])
                case _:
                    self.problem(f"unexpected: {str(message)[:200]}")

    @staticmethod
    async def _subscribe(connection: WebSocketConnection, checker: UpdateChecker) -> None:
        position = None
        if checker.position is not None:
            position = {"epoch": checker.position[0], "offset": checker.position[1]}
        request = {"type": "subscribe", "task_id": checker.task_id, "position": position}
        await connection.send_message(msgspec.json.encode(request).decode())

    async def wait_until_begun(self) -> None:
        """Wait until every client has something of every task: what a Redis without any update has is not kept in a crash."""
        with trio.fail_after(PATIENCE):
            while not (  # noqa: ASYNC110 - other processes
                len(self.checkers) == CLIENTS * 3 and all(each.position and each.position[1] for each in self.checkers)
            ):
                await trio.sleep(0.05)

    async def wait_until_delivered(self) -> None:
        """Wait until every client has every update. After the time-out, what is missing counts as an unannounced gap."""
        with trio.move_on_after(PATIENCE):
            while any(self._is_incomplete(checker) for checker in self.checkers):  # noqa: ASYNC110 - other processes
                await trio.sleep(0.1)
        for checker in self.checkers:
            if self._is_incomplete(checker):
                self.report.gaps_not_announced += 1
                there = self.last[checker.task_id]
                self.problem(f"{checker.name} never received all of {checker.task_id}: {checker.position}, top {there}")
        plain = [checker.position[1] for checker in self.checkers if checker.is_plain and checker.position]
        self.report.plain_recorded = max(plain, default=0)

    def _is_incomplete(self, checker: UpdateChecker) -> bool:
        last = self.last.get(checker.task_id)
        return last is not None and (checker.position is None or checker.position[1] < last)

    # Faults. When one returns, every process runs again, but may not have recovered yet.

    async def kill_redis(self, seconds: float, which: int) -> None:
        self.valkey.kill()
        await trio.sleep(seconds / 4)
        self.valkey.start()
        await wait_until_ready(self.valkey.port)

    async def freeze_redis(self, seconds: float, which: int) -> None:
        self.valkey.freeze()
        await trio.sleep(seconds)
        self.valkey.thaw()

    async def cut_redis(self, seconds: float, which: int) -> None:
        await self.to_redis[which].cut(seconds / 2)

    async def stall_redis(self, seconds: float, which: int) -> None:
        await self.to_redis[which].stall(seconds)

    async def cut_clients(self, seconds: float, which: int) -> None:
        await self.to_relay[which].cut(seconds / 2)

    async def stall_clients(self, seconds: float, which: int) -> None:
        self._size = STALLING_SIZE
        before = await self._dropped(which)
        await self.to_relay[which].stall(1.5 + seconds)
        self._size = SIZE
        self.report.dropped_as_slow += await self._dropped(which) - before

    async def _dropped(self, which: int) -> int:
        name = 'relay_connections_dropped_total{reason="slow_age"}'
        return int(await trio.to_thread.run_sync(self.relays[which].metric, name))

    async def kill_relay(self, seconds: float, which: int) -> None:
        relay = self.relays[which]
        for pid in relay.worker_pids():
            os.kill(pid, signal.SIGKILL)
        relay.kill()
        relay.start(wait=False)
        await self.until_ready(relay)

    async def deploy(self, seconds: float, which: int) -> None:
        for relay in self.relays:
            relay.child.terminate()
            await trio.to_thread.run_sync(relay.wait)
            relay.start(wait=False)
            await self.until_ready(relay)


@asynccontextmanager
async def running(directory: Path, seed: int, log: Callable[[str], None]) -> AsyncIterator[FaultRig]:
    """Run publishers and clients during the block. When it ends, wait until everything is delivered and complete the report."""
    home = directory / "valkey"
    home.mkdir()
    report = FaultReport()
    keep = _RELAY_SETTINGS["history_size"]
    settings = Settings(_env_file=None, redis_timeout=1.0, history_size=keep)  # type: ignore[call-arg]
    redis_settings = RedisSettings(_env_file=None)  # type: ignore[call-arg]
    with Valkey(home, "--appendonly", "yes", "--appendfsync", "always", "--save", "") as valkey:
        rig: FaultRig | None = None
        try:
            async with (
                open_redis(valkey.url, settings, redis_settings) as redis,
                trio.open_nursery() as nursery,
                trio.open_nursery() as clients,
            ):
                rig = FaultRig(valkey, nursery, report, log)
                await rig.start(directory)
                nursery.start_soon(rig.record_plain_order)
                for number in range(CLIENTS):
                    clients.start_soon(rig.client, number, random.Random(seed * 1000 + number))
                async with trio.open_nursery() as publishers:
                    publishers.start_soon(rig.publish, redis)
                    await rig.wait_until_begun()
                    yield rig
                    rig.stop_publishing()
                await rig.wait_until_delivered()
                nursery.cancel_scope.cancel()
                clients.cancel_scope.cancel()
        finally:
            for relay in rig.relays if rig is not None else ():
                for pid in relay.worker_pids():
                    os.kill(pid, signal.SIGKILL)
                if relay.child.poll() is None:
                    relay.kill()
