"""The subscription of this process: one connection to a single server, or one to each primary of a cluster.

On a cluster Relay's own channels are sharded, each received from the node that serves it; plain channels, which a cluster sends
to all its nodes, have a connection of their own. When the topology changes the connections follow it.
"""

from collections.abc import Awaitable, Callable, Collection
from time import monotonic

import structlog
import trio
from redis.exceptions import RedisError
from relay_wire.trio_bridge import trio_asyncio

from relay.broker.backoff import backoff
from relay.broker.connections import Server
from relay.broker.contract import MessageHandler, PubSubReceiver, RunCalls
from relay.broker.pubsub_connection import PubSubConnection, PubSubOptions
from relay.broker.topology import REFRESH, Servers

_log = structlog.get_logger("relay.pubsub")


class _NoReceiver:
    """Receives nothing: for a connection without Relay's own channels."""

    def on_up(self) -> None:
        """Do nothing."""

    def on_down(self, redis_channels: Collection[str]) -> None:
        """Do nothing."""

    def on_confirmed(self, redis_channel: str) -> None:
        """Do nothing."""

    def on_message(self, redis_channel: bytes, message: bytes) -> bool:  # noqa: ARG002
        """Do nothing."""
        return False

    def on_receiving(self, is_receiving: bool) -> None:
        """Do nothing."""


NO_RECEIVER = _NoReceiver()


class PubSub:
    """Receives every channel that this process wants, while `run` is running."""

    def __init__(self, servers: Servers, health_interval: float, deadline: float) -> None:
        """Make a subscription; `run` connects.

        Args:
            servers: Where to connect.
            health_interval: Seconds between two probes of a connection.
            deadline: Seconds within which a probe must arrive, and within which a server must take a command.
        """
        self._servers = servers
        self._health_interval = health_interval
        self._deadline = deadline
        self._handlers: dict[str, list[MessageHandler]] = {}
        # The connection for plain channels, of which there is one while `run` is running, and those to a cluster's nodes.
        self._plain: list[PubSubConnection] = []
        self._nodes: dict[Server, PubSubConnection] = {}
        #: Called when all that one turn of the event loop has brought was handled. Set it before `run`.
        self.on_turn_end: Callable[[], None] = lambda: None
        self._is_stale = trio.Event()
        self._created_at = monotonic()
        self._past_reconnects = 0
        self._past_output_buffer_disconnects = 0

    @property
    def _connections(self) -> list[PubSubConnection]:
        return self._plain + list(self._nodes.values())

    @property
    def alive(self) -> bool:
        """Whether all connections are up, and their last probes arrived in time."""
        if self._servers.is_sharded and not self._nodes:
            return False
        return bool(self._plain) and all(connection.alive for connection in self._connections)

    @property
    def failure(self) -> str | None:
        """Why a connection is down, or None."""
        return next((connection.failure for connection in self._connections if connection.failure is not None), None)

    @property
    def probe_age(self) -> float:
        """Seconds since the last probe arrived, of the connection where that is longest; at first since this was made."""
        return monotonic() - min((connection.probed_at for connection in self._connections), default=self._created_at)

    @property
    def reconnects(self) -> int:
        """How often a connection was lost."""
        return self._past_reconnects + sum(connection.reconnects for connection in self._connections)

    @property
    def output_buffer_disconnects(self) -> int:
        """How often Redis closed a connection since it had more than ``client-output-buffer-limit`` to send."""
        present = sum(connection.output_buffer_disconnects for connection in self._connections)
        return self._past_output_buffer_disconnects + present

    def add(self, channel: str, handler: MessageHandler) -> Callable[[], None]:
        """Have a handler called for a plain channel or pattern, from the next connection on.

        Returns:
            A function that removes the handler.
        """
        self._handlers.setdefault(channel, []).append(handler)

        def remove() -> None:
            handlers = self._handlers.get(channel, [])
            if handler in handlers:
                handlers.remove(handler)

        return remove

    async def subscribe(self, redis_channels: Collection[str]) -> set[str]:
        """Subscribe to Relay's own channels; each is confirmed to the receiver.

        Returns:
            The channels that were asked for. The connections of the others are down; the receiver is notified when they are up.
        """
        asked: set[str] = set()
        for connection, names in self._by_connection(redis_channels):
            if await connection.subscribe(names):
                asked.update(names)
        return asked

    async def unsubscribe(self, redis_channels: Collection[str]) -> None:
        """End subscriptions to Relay's own channels."""
        for connection, names in self._by_connection(redis_channels):
            await connection.unsubscribe(names)

    def _by_connection(self, redis_channels: Collection[str]) -> list[tuple[PubSubConnection, list[str]]]:
        groups: dict[PubSubConnection, list[str]] = {}
        for name in redis_channels:
            connection: PubSubConnection | None = None
            if self._servers.is_sharded:
                try:
                    connection = self._nodes.get(self._servers.of(name))
                except RedisError:
                    continue
            elif self._plain:
                connection = self._plain[0]
            if connection is not None:
                groups.setdefault(connection, []).append(name)
        return list(groups.items())

    def invalidate_topology(self) -> None:
        """Note that the cluster's topology may have changed."""
        self._is_stale.set()

    async def run(
        self,
        loop: trio_asyncio.TrioEventLoop,
        receiver: PubSubReceiver = NO_RECEIVER,
        on_connecting: Callable[[], None] = lambda: None,
        prepare: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        run_calls: RunCalls | None = None,
    ) -> None:
        """Receive until cancelled.

        Args:
            loop: Where redis-py connects.
            receiver: Receives messages on Relay's own channels.
            on_connecting: Called before a new connection receives plain messages: some may have been missed before it.
            prepare: Called before the receiver is notified that a connection is up; must end within the deadline of a call.
            run_calls: Runs the scripts of probes, where there is one server and others share the round trip.
        """
        is_sharded = self._servers.is_sharded
        options = PubSubOptions(
            self._handlers,
            self._health_interval,
            self._deadline,
            on_connecting,
            self.invalidate_topology,
            prepare,
            self.on_turn_end,
            None if is_sharded else run_calls,
        )
        plain = PubSubConnection(self._servers.any, NO_RECEIVER if is_sharded else receiver, options, loop)
        self._plain.append(plain)
        try:
            if not is_sharded:
                await plain.run()
                return
            async with trio.open_nursery() as nursery:
                await self._follow_topology(loop, plain, receiver, options, nursery)
        finally:
            self._plain.clear()
            self._nodes.clear()

    async def _follow_topology(
        self,
        loop: trio_asyncio.TrioEventLoop,
        plain: PubSubConnection,
        receiver: PubSubReceiver,
        options: PubSubOptions,
        nursery: trio.Nursery,
    ) -> None:
        running: dict[Server, trio.CancelScope] = {}
        has_plain = False
        attempt = 0
        while True:
            self._is_stale = trio.Event()
            try:
                with trio.fail_after(self._deadline):
                    await loop.run_aio_coroutine(self._servers.refresh())
                attempt = 0
            except (RedisError, OSError, trio.TooSlowError) as error:
                attempt += 1
                _log.warning("no node of the cluster answers", error=f"{type(error).__name__}: {error}")
            else:
                if not has_plain:
                    has_plain = True
                    nursery.start_soon(plain.run)
                primaries = set(self._servers.all())
                for server in set(running) - primaries:
                    _log.info("no primary of the cluster any more", server=server.name)
                    running.pop(server).cancel()
                    gone = self._nodes.pop(server)
                    self._past_reconnects += gone.reconnects
                    self._past_output_buffer_disconnects += gone.output_buffer_disconnects
                for server in primaries - set(running):
                    running[server] = trio.CancelScope()
                    self._nodes[server] = PubSubConnection(_always(server), receiver, options, loop, is_sharded=True)
                    nursery.start_soon(self._run_in_scope, running[server], self._nodes[server])
            if attempt:
                await trio.sleep(backoff(attempt))
                continue
            await trio.sleep(0.1)  # a failing node must not have us ask all the time
            with trio.move_on_after(REFRESH):
                await self._is_stale.wait()

    @staticmethod
    async def _run_in_scope(scope: trio.CancelScope, connection: PubSubConnection) -> None:
        with scope:
            await connection.run()


def _always(server: Server) -> Callable[[], Server]:
    return lambda: server
