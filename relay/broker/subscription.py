"""The subscription of this process: one connection to a single server, or one to each primary of a cluster.

On a cluster the feeds are sharded channels, each heard from the node that serves it; plain channels, which a cluster hands to
all its nodes, are heard over a connection of their own. When the topology changes the listeners follow it.
"""

from collections.abc import Callable, Collection

import structlog
import trio
import trio_asyncio
from redis.exceptions import RedisError

from relay.broker.connections import REFRESH, Server, Servers
from relay.broker.listener import FeedHandler, Listener, RawHandler, backoff

_log = structlog.get_logger("relay.subscription")


class Subscription:
    """Hears every channel that this process wants, for ever, while `run` is running."""

    def __init__(self, servers: Servers, health_interval: float, deadline: float) -> None:
        self._servers = servers
        self._health_interval = health_interval
        self._deadline = deadline
        self._handlers: dict[str, list[RawHandler]] = {}
        self._plain: Listener | None = None
        self._nodes: dict[Server, Listener] = {}
        self._stale = trio.Event()
        self._reconnects_of_gone = 0
        self.feeds: FeedHandler | None = None
        #: Called before plain channels are heard anew.
        self.on_connecting: Callable[[], None] = lambda: None

    @property
    def _listeners(self) -> list[Listener]:
        return ([self._plain] if self._plain is not None else []) + list(self._nodes.values())

    @property
    def alive(self) -> bool:
        """All connections are up and have shown life within their deadlines."""
        if self._servers.is_sharded and not self._nodes:
            return False
        return self._plain is not None and all(listener.alive for listener in self._listeners)

    @property
    def reconnects(self) -> int:
        """How often a connection had to be built anew."""
        return self._reconnects_of_gone + sum(listener.reconnects for listener in self._listeners)

    def add(self, channel: str, handler: RawHandler) -> Callable[[], None]:
        """Have a handler called for a plain channel or pattern; takes effect with `run`. Returns what ends it."""
        self._handlers.setdefault(channel, []).append(handler)

        def remove() -> None:
            handlers = self._handlers.get(channel, [])
            if handler in handlers:
                handlers.remove(handler)

        return remove

    async def subscribe(self, feed_names: Collection[str]) -> set[str]:
        """Hear feeds; each is confirmed to `feeds`. Returns those that were asked for: the others' connections are down, and
        `feeds` is told when they are up again.
        """
        asked: set[str] = set()
        for listener, names in self._by_listener(feed_names):
            if await listener.subscribe(names):
                asked.update(names)
        return asked

    async def unsubscribe(self, feed_names: Collection[str]) -> None:
        """Hear them no longer."""
        for listener, names in self._by_listener(feed_names):
            await listener.unsubscribe(names)

    def _by_listener(self, feed_names: Collection[str]) -> list[tuple[Listener, list[str]]]:
        groups: dict[Listener, list[str]] = {}
        for name in feed_names:
            listener = self._plain
            if self._servers.is_sharded:
                try:
                    listener = self._nodes.get(self._servers.of(name))
                except RedisError:
                    continue
            if listener is not None:
                groups.setdefault(listener, []).append(name)
        return list(groups.items())

    def look_again(self) -> None:
        """The cluster's topology may have changed."""
        self._stale.set()

    async def run(self, loop: trio_asyncio.TrioEventLoop) -> None:
        """Listen until cancelled."""
        is_sharded = self._servers.is_sharded
        self._plain = Listener(
            self._servers.any,
            self._handlers,
            None if is_sharded else self.feeds,
            self._health_interval,
            self._deadline,
            on_connecting=lambda: self.on_connecting(),
            on_lost=self.look_again,
        )
        try:
            if not is_sharded:
                await self._plain.run(loop)
                return
            async with trio.open_nursery() as nursery:
                await self._follow_topology(loop, nursery)
        finally:
            self._plain = None
            self._nodes.clear()

    async def _follow_topology(self, loop: trio_asyncio.TrioEventLoop, nursery: trio.Nursery) -> None:
        running: dict[Server, trio.CancelScope] = {}
        attempt = 0
        while True:
            self._stale = trio.Event()
            try:
                with trio.fail_after(self._deadline):
                    await loop.run_aio_coroutine(self._servers.refresh())
                attempt = 0
            except (RedisError, OSError, trio.TooSlowError) as error:
                attempt += 1
                _log.warning("no node of the cluster answers", error=f"{type(error).__name__}: {error}")
            else:
                if not running and self._plain is not None:
                    nursery.start_soon(self._plain.run, loop)
                primaries = set(self._servers.all())
                for server in set(running) - primaries:
                    _log.info("no primary of the cluster any more", server=server.name)
                    running.pop(server).cancel()
                    self._reconnects_of_gone += self._nodes.pop(server).reconnects
                for server in primaries - set(running):
                    running[server] = trio.CancelScope()
                    self._nodes[server] = listener = self._node_listener(server)
                    nursery.start_soon(self._run_within, running[server], listener, loop)
            if attempt:
                await trio.sleep(backoff(attempt))
                continue
            await trio.sleep(0.1)  # a failing node must not have us ask all the time
            with trio.move_on_after(REFRESH):
                await self._stale.wait()

    def _node_listener(self, server: Server) -> Listener:
        return Listener(
            lambda: server,
            {},
            self.feeds,
            self._health_interval,
            self._deadline,
            is_sharded=True,
            on_lost=self.look_again,
        )

    @staticmethod
    async def _run_within(scope: trio.CancelScope, listener: Listener, loop: trio_asyncio.TrioEventLoop) -> None:
        with scope:
            await listener.run(loop)
