"""The processes, the publishers and the clients of a fault run, and the faults."""

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
from relay.broker.service import RedisService, open_redis
from relay.config import RedisSettings, Settings
from relay.core.errors import BrokerError
from tests.faults.ledger import Follower, Ledger
from tests.faults.proxy import Proxy
from tests.harness import RedisServer, RelayServer

TASKS = tuple(f"numbered-{number}" for number in range(4))
PLAIN_TASKS = ("plain-0",)
CLIENTS = 20
#: Seconds between two updates of one task: all clients together must be able to read what they get in a part of the time.
PACE = 0.04

#: Bytes of an update, and those while clients are stalled: more than the smallest of buffers take, and no more than this
#: process itself, with all its clients, reads in time.
SIZE = 1000
STALLING_SIZE = 3_000

#: Seconds that all may take to come to rest at the end.
PATIENCE = 30.0

_RELAY_SETTINGS: dict[str, Any] = {
    "redis_timeout": 1,
    "redis_health_interval": 0.5,
    "graceful_timeout": 3,
    "close_timeout": 0.5,
    "queue_max_age": 1,
    # A folded update takes the place of several, which could not be told from a gap.
    "coalesce_after": 8000,
    "history_size": 20_000,
    "queue_bytes": 64 * 1024 * 1024,
    "max_client_errors": 1000,
}


class Valkey(RedisServer):
    """One that keeps its data on disk. Starting it does not wait."""

    def start(self) -> None:
        self._child = start_server(self.port, self.directory, *self.options)


class Rig:
    """Everything that a run breaks."""

    def __init__(self, valkey: Valkey, nursery: trio.Nursery, ledger: Ledger, say: Callable[[str], None]) -> None:
        self.valkey = valkey
        self.ledger = ledger
        self.say = say
        self.to_redis = [Proxy(valkey.port) for _ in range(2)]
        self.to_relay: list[Proxy] = []
        self.relays: list[RelayServer] = []
        self.followers: list[Follower] = []
        self.last: dict[str, int] = {}
        self._size = SIZE
        self._nursery = nursery
        self._publishing = trio.CancelScope()

    def problem(self, text: str) -> None:
        if text not in self.ledger.remarks:
            self.ledger.remark(text)
        self.say(text)

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
            while not await trio.to_thread.run_sync(relay.is_ready):  # noqa: ASYNC110 - nobody tells us
                await trio.sleep(0.05)

    # Publishers.

    async def publish(self, redis: RedisService) -> None:
        """Publish until told to stop; what is under way then is brought to its end."""
        async with trio.open_nursery() as nursery:
            for task_id in TASKS:
                nursery.start_soon(self._publish_durably, redis, task_id)
            for task_id in PLAIN_TASKS:
                nursery.start_soon(self._publish_plainly, redis, task_id)

    def stop_publishing(self) -> None:
        self._publishing.cancel()

    async def _publish_durably(self, redis: RedisService, task_id: str) -> None:
        number = 0
        while not self._publishing.cancel_called:
            number += 1
            data = msgspec.json.encode({"n": number, "pad": "." * self._size})
            while True:
                try:
                    position = await redis.record(
                        f"task:{task_id}", "task_update", data, idempotency_key=f"{task_id}/{number}"
                    )
                except BrokerError:
                    await trio.sleep(0.05)
                else:
                    break
            if position is not None:
                self.ledger.acknowledged += 1
                self.ledger.epochs.setdefault(task_id, set()).add(position.epoch)
                self.last[task_id] = position.offset
            await trio.sleep(PACE)

    async def _publish_plainly(self, redis: RedisService, task_id: str) -> None:
        number = 0
        while not self._publishing.cancel_called:
            number += 1
            message = {"type": "task_update", "task_id": task_id, "data": {"n": number}}
            try:
                await redis.publish("task_updates", msgspec.json.encode(message))
            except BrokerError:
                continue  # as those do who publish plainly: it may have happened or not
            self.ledger.plain_published += 1
            await trio.sleep(PACE)

    async def witness(self) -> None:
        """Note the order in which Redis hands out plain publishes: one that was frozen with several in its sockets takes
        them in an order of its own."""
        ranks = self.ledger.plain_ranks
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
        """Follow some tasks, through whichever relay can be reached, and resume for ever."""
        chosen = [TASKS[number % len(TASKS)], TASKS[(number + 1) % len(TASKS)], *PLAIN_TASKS]
        followed = {
            task_id: Follower(f"client {number}", task_id, self.ledger, task_id in PLAIN_TASKS, self.problem)
            for task_id in chosen
        }
        self.followers += followed.values()
        relay = number % 2
        while True:
            try:
                await self._connect(self.to_relay[relay].port, followed)
            except* ConnectionClosed:
                pass
            except* (HandshakeError, OSError, trio.TooSlowError):
                relay = 1 - relay
            await trio.sleep(0.05 + 0.15 * draw.random())

    async def _connect(self, port: int, followed: dict[str, Follower]) -> None:
        """One connection, to its end. In a nursery of its own: trio-websocket's would wait for ever when the answer to the
        handshake comes just after its time-out."""
        with trio.fail_after(2):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(2):
                    connection = await wrap_client_stream(nursery, stream, "relay", "/ws/tasks")
                self.ledger.connections += 1
                await self._follow(connection, followed)
        finally:
            await trio.aclose_forcefully(stream)

    async def _follow(self, connection: WebSocketConnection, followed: dict[str, Follower]) -> None:
        asked = list(followed)  # without an answer so far; they are answered in this order
        for task_id in asked:
            await self._subscribe(connection, followed[task_id])
        while True:
            with trio.fail_after(10):  # a connection on which nothing comes is given up, as clients do
                message: Any = msgspec.json.decode(await connection.get_message())
            match message:
                case {"type": "subscribed", "task_id": task_id, "position": position}:
                    if asked[:1] == [task_id]:
                        del asked[0]
                    followed[task_id].subscribed(position["epoch"], position["offset"], message.get("recovered"))
                case {"type": "task_update", "task_id": task_id, "position": position, "data": {"n": n}}:
                    followed[task_id].update(position["epoch"], position["offset"], n)
                case {"type": "error", "code": "unavailable"}:
                    await trio.sleep(0.1)
                    asked.append(asked.pop(0))
                    await self._subscribe(connection, followed[asked[-1]])
                case _:
                    self.problem(f"unexpected: {str(message)[:200]}")

    @staticmethod
    async def _subscribe(connection: WebSocketConnection, follower: Follower) -> None:
        position = None
        if follower.position is not None:
            position = {"epoch": follower.position[0], "offset": follower.position[1]}
        request = {"type": "subscribe", "task_id": follower.task_id, "position": position}
        await connection.send_message(msgspec.json.encode(request).decode())

    async def come_to_rest(self) -> None:
        """Wait until all have all; what is missing after a while is a gap that nobody told."""
        with trio.move_on_after(PATIENCE):
            while any(self._is_behind(follower) for follower in self.followers):  # noqa: ASYNC110 - as above
                await trio.sleep(0.1)
        for follower in self.followers:
            if self._is_behind(follower):
                self.ledger.gaps_not_announced += 1
                there = self.last[follower.task_id]
                self.problem(f"{follower.name} waits for ever: {follower.task_id} {follower.position}, top {there}")
        plain = [follower.position[1] for follower in self.followers if follower.is_plain and follower.position]
        self.ledger.plain_recorded = max(plain, default=0)

    def _is_behind(self, follower: Follower) -> bool:
        last = self.last.get(follower.task_id)
        return last is not None and (follower.position is None or follower.position[1] < last)

    # Faults. Each ends with everything up again, though not yet recovered.

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
        self.ledger.dropped_as_slow += await self._dropped(which) - before

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


#: How often each kind comes, of a hundred.
KINDS = {
    "kill_redis": 16,
    "freeze_redis": 14,
    "cut_redis": 18,
    "stall_redis": 12,
    "cut_clients": 16,
    "stall_clients": 12,
    "kill_relay": 5,
    "deploy": 2,
}


def plan(seed: int, count: int) -> list[tuple[str, float, int]]:
    """The faults of a run: kind, seconds, and which of two. Each kind is there once before any comes twice."""
    draw = random.Random(seed)
    kinds = list(KINDS)
    draw.shuffle(kinds)
    kinds += draw.choices(list(KINDS), list(KINDS.values()), k=max(0, count - len(kinds)))
    return [(kind, draw.uniform(0.2, 1.4), draw.randrange(2)) for kind in kinds[:count]]


@asynccontextmanager
async def running(directory: Path, seed: int, say: Callable[[str], None]) -> AsyncIterator[Rig]:
    """A rig with publishers and clients at work. When the block ends, all come to rest, and the ledger is complete."""
    home = directory / "valkey"
    home.mkdir()
    ledger = Ledger()
    keep = _RELAY_SETTINGS["history_size"]
    settings = Settings(_env_file=None, redis_timeout=1.0, history_size=keep)  # type: ignore[call-arg]
    redis_settings = RedisSettings(_env_file=None)  # type: ignore[call-arg]
    with Valkey(home, "--appendonly", "yes", "--appendfsync", "always", "--save", "") as valkey:
        rig: Rig | None = None
        try:
            async with (
                open_redis(valkey.url, settings, redis_settings) as redis,
                trio.open_nursery() as nursery,
                trio.open_nursery() as clients,
            ):
                rig = Rig(valkey, nursery, ledger, say)
                await rig.start(directory)
                nursery.start_soon(rig.witness)
                for number in range(CLIENTS):
                    clients.start_soon(rig.client, number, random.Random(seed * 1000 + number))
                async with trio.open_nursery() as publishers:
                    publishers.start_soon(rig.publish, redis)
                    yield rig
                    rig.stop_publishing()
                await rig.come_to_rest()
                nursery.cancel_scope.cancel()
                clients.cancel_scope.cancel()
        finally:
            for relay in rig.relays if rig is not None else ():
                for pid in relay.worker_pids():
                    os.kill(pid, signal.SIGKILL)
                if relay.child.poll() is None:
                    relay.kill()


async def break_things(directory: Path, seed: int, count: int, say: Callable[[str], None]) -> Ledger:
    """The fault run; returns its accounts."""
    async with running(directory, seed, say) as rig:
        draw = random.Random(seed)
        for number, (kind, seconds, which) in enumerate(plan(seed, count), 1):
            say(f"{number:4}  {kind} {which + 1}, {seconds:.2f} s")
            await getattr(rig, kind)(seconds, which)
            rig.ledger.faults[kind] = rig.ledger.faults.get(kind, 0) + 1
            await trio.sleep(draw.uniform(0.1, 0.4))
            if kind == "kill_redis":
                # Plain publishes keep their order through a crash; through two within a second they may not, see docs/redis.md.
                await trio.sleep(1.0)
    return rig.ledger


async def cut_regularly(
    directory: Path, seed: int, every: float, lasting: float, seconds: float, say: Callable[[str], None]
) -> Ledger:
    """Clients are cut for a while, over and over, as long as the stream lasts; returns the accounts."""
    async with running(directory, seed, say) as rig:
        with trio.move_on_after(seconds):
            while True:
                await trio.sleep(every - lasting)
                rig.ledger.faults["cut_all_clients"] = rig.ledger.faults.get("cut_all_clients", 0) + 1
                async with trio.open_nursery() as nursery:
                    for proxy in rig.to_relay:
                        nursery.start_soon(proxy.cut, lasting)
        for proxy in rig.to_relay:
            await proxy.cut(0)  # in case the time ran out within one
    return rig.ledger
