"""One pub/sub connection: it subscribes, verifies by probes that it works, and connects again with jittered backoff.

It works on redis-py's `Connection`, not on its `PubSub`: that one reconnects by itself, and then nobody would know that
something may have been missed.
"""

import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from time import monotonic
from typing import Any

import structlog
import trio
from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from relay_wire import keys
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script
from relay_wire.trio_bridge import trio_asyncio

from relay.broker.backoff import backoff
from relay.broker.connections import Server
from relay.broker.contract import MessageHandler, PubSubReceiver, RunCalls
from relay.broker.pubsub_messages import MessageDispatcher
from relay.broker.pubsub_reader import PubSubReader
from relay.broker.reply_reader import shutdown_socket, write
from relay.broker.server_info import ServerInfo, read_server_info
from relay.core.errors import BrokerError, leaves
from relay.ticks import sleep_until_tick

_log = structlog.get_logger("relay.pubsub")

#: Channels in one SUBSCRIBE command.
_SUBSCRIBE_AT_ONCE = 500

#: Publishes a probe. On a single server it is a call like any other, and the key is a channel's name.
_PUBLISH = Script.of("return redis.call('PUBLISH', KEYS[1], '')")


def _is_pattern(channel: str) -> bool:
    return any(mark in channel for mark in "*?[")


@dataclass(frozen=True, slots=True)
class PubSubOptions:
    """Options that all pub/sub connections of a process share.

    Attributes:
        handlers: The handlers of plain channels and patterns, by name.
        health_interval: Seconds between two probes.
        deadline: Seconds within which a probe must arrive, and within which the server must take a command.
        on_connecting: Called before a new connection receives plain messages: some may have been missed before it.
        on_lost: Called when a connection has failed.
        prepare: Called before the receiver is notified that a connection is up; must end within the deadline of a call.
        on_turn_end: Called when all that one turn of the event loop has brought was handled.
        run_calls: Runs the scripts of probes while a connection is up; None if they take connections of their own.
    """

    handlers: Mapping[str, Sequence[MessageHandler]]
    health_interval: float
    deadline: float
    on_connecting: Callable[[], None]
    on_lost: Callable[[], None]
    prepare: Callable[[], Awaitable[None]]
    on_turn_end: Callable[[], None]
    run_calls: RunCalls | None = None


@dataclass(frozen=True, slots=True)
class _Link:
    """A connection that is open now, and its reader."""

    connection: AbstractConnection
    reader: PubSubReader


class PubSubConnection:
    """Owns one subscription connection. Messages arrive while `run` is running.

    Attributes:
        alive: The connection is up, and its last probe arrived in time.
        reconnects: How often it was lost.
        output_buffer_disconnects: How often Redis closed it since it had more than ``client-output-buffer-limit`` to send.
        failure: Why there is no connection now; None while there is one, and before the first attempt.
        probed_at: When the last probe arrived, on the monotonic clock; at first when this was made.
    """

    def __init__(
        self,
        server: Callable[[], Server],
        receiver: PubSubReceiver,
        options: PubSubOptions,
        loop: trio_asyncio.TrioEventLoop,
        *,
        is_sharded: bool = False,
    ) -> None:
        """Make a connection; `run` opens it.

        Args:
            server: Returns the server to connect to; called before each attempt.
            receiver: Receives messages on Relay's own channels.
            options: What it shares with the process' other connections.
            loop: Where redis-py connects.
            is_sharded: It is for the sharded channels of one node. Otherwise it is for plain channels, and on a server that is
                no cluster for Relay's own as well.
        """
        self._server = server
        self._options = options
        self._receiver = receiver
        self._loop = loop
        self._is_sharded = is_sharded
        self._handlers: Mapping[str, Sequence[MessageHandler]] = {} if is_sharded else options.handlers
        self._probe = keys.PROBE + secrets.token_hex(8)
        self._probe_arrived = trio.Event()
        self._dispatcher = MessageDispatcher(
            receiver, self._handlers, self._probe.encode(), self._on_probe, is_sharded=is_sharded
        )
        self._link: _Link | None = None
        self._wanted: set[str] = set()
        self._info = ServerInfo()
        self.alive = False
        self.reconnects = 0
        self.output_buffer_disconnects = 0
        self.failure: str | None = None
        self.probed_at = monotonic()

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        attempt = 0
        while True:
            was_alive, error = await self._connect_and_receive()
            self._options.on_lost()
            if was_alive:
                attempt = 0
                self.reconnects += 1
            self.failure = _describe(error)
            retry_in = backoff(attempt)
            _log.warning("redis subscription lost", error=self.failure, retry_in=round(retry_in, 3))
            attempt += 1
            await trio.sleep(retry_in)

    async def _connect_and_receive(self) -> tuple[bool, Exception]:
        """Connect and receive until something fails. Returns whether the connection had been up, and what failed."""
        options = self._options
        failure: Exception = RedisConnectionError("the connection ended")
        server: Server | None = None
        connection: AbstractConnection | None = None
        was_alive = False
        try:
            server = self._server()
            with trio.fail_after(options.deadline):
                await self._check_server(server)
                connection = await self._loop.run_aio_coroutine(server.connect())
            async with trio.open_nursery() as nursery:
                reader = PubSubReader(self._dispatcher.handle, self._on_receiving)
                nursery.start_soon(reader.run, connection, self._loop)
                self._link = _Link(connection, reader)
                if not self._is_sharded:
                    options.on_connecting()
                names = [self._probe, *(name for name in self._handlers if not _is_pattern(name))]
                await self._send(connection, "SUBSCRIBE", names)
                await self._send(connection, "PSUBSCRIBE", [name for name in self._handlers if _is_pattern(name)])
                await self._send_probes(server, reader)
        except* (RedisError, OSError, trio.TooSlowError, BrokerError) as errors:
            failure = leaves(errors)[0]
        finally:
            was_alive, self.alive = self.alive, False
            self._link = None
            wanted, self._wanted = self._wanted, set()
            self._dispatcher.pending_unsubscribes.clear()
            self._receiver.on_down(wanted)
            if connection is not None and server is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + options.deadline):
                    await self._loop.run_aio_coroutine(server.discard(connection))
        return was_alive, failure

    def _on_receiving(self, is_receiving: bool) -> None:
        self._receiver.on_receiving(is_receiving)
        if not is_receiving:
            self._options.on_turn_end()

    async def _check_server(self, server: Server) -> None:
        """Note what server it is, and whether it closed the last connection for want of buffer space.

        Raises:
            BrokerRefused: It is too old.
        """
        last, self._info = self._info, await self._loop.run_aio_coroutine(read_server_info(server))
        self._info.require_supported()
        if self.reconnects and self._info.has_cut_since(last):
            self.output_buffer_disconnects += 1
            _log.error(
                "redis closed a subscription that had too much to send; messages on plain channels were lost. "
                "Publish less at a time, or raise `client-output-buffer-limit pubsub` in Redis",
                server=server.name,
            )

    async def subscribe(self, redis_channels: Collection[str]) -> bool:
        """Subscribe on the present connection; each channel is confirmed to the receiver.

        Returns:
            False if there is no connection, or it breaks.
        """
        if self._link is None:
            return False
        self._wanted.update(redis_channels)
        command = "SSUBSCRIBE" if self._is_sharded else "SUBSCRIBE"
        return await self._send_or_break(self._link.connection, command, redis_channels)

    async def unsubscribe(self, redis_channels: Collection[str]) -> None:
        """End subscriptions on the present connection."""
        if self._link is None:
            return
        self._wanted.difference_update(redis_channels)
        self._dispatcher.pending_unsubscribes.update(redis_channels)
        command = "SUNSUBSCRIBE" if self._is_sharded else "UNSUBSCRIBE"
        await self._send_or_break(self._link.connection, command, redis_channels)

    async def _send_or_break(
        self, connection: AbstractConnection, command: str, redis_channels: Collection[str]
    ) -> bool:
        """Send a command. A connection that does not take all of it is broken: it would not have the channels it should."""
        try:
            for names in self._by_slot(redis_channels):
                await self._send(connection, command, names)
        except (RedisError, OSError, trio.TooSlowError):
            shutdown_socket(connection)
            return False
        return True

    def _by_slot(self, redis_channels: Collection[str]) -> Iterable[list[str]]:
        """Return groups of channels that one command may name: sharded channels of one slot only."""
        if not self._is_sharded:
            return [list(redis_channels)]
        return [list(names) for _, names in groupby(sorted(redis_channels, key=keys.tag_of), keys.tag_of)]

    async def _send(self, connection: AbstractConnection, command: str, names: list[str]) -> None:
        """Send a command, in parts if it has many names.

        Raises:
            RedisError: The connection broke. So does OSError.
            trio.TooSlowError: The server does not take it in time.
        """
        for first in range(0, len(names), _SUBSCRIBE_AT_ONCE):
            part: Any = (command, *names[first : first + _SUBSCRIBE_AT_ONCE])
            with trio.fail_after(self._options.deadline):
                await self._loop.run_aio_coroutine(write(connection, pack_command(part)))

    async def _send_probes(self, server: Server, reader: PubSubReader) -> None:
        """Publish probes to ourselves, the way that updates come.

        They find more than a server that does not answer: a subscription that the server has forgotten, or that was cut off
        in between, is as silent as one on which nothing happens.

        Raises:
            trio.TooSlowError: A probe does not arrive.
        """
        while True:
            self._probe_arrived = trio.Event()
            with trio.fail_after(self._options.deadline):  # for both ways together
                if not (self.alive and await self._publish_probe_with_others()):
                    await self._publish_probe(server)
            await self._wait_for_probe(server, reader)
            if not self.alive:
                await self._options.prepare()
                self.alive = True
                self.failure = None
                channels = sorted(name for name in self._handlers if not name.startswith(keys.PREFIX))
                _log.info(
                    "redis subscription up", server=server.name, version=self._info.version_text, channels=channels
                )
                self._receiver.on_up()
            await sleep_until_tick(self._options.health_interval)

    def _on_probe(self) -> None:
        self.probed_at = monotonic()
        self._probe_arrived.set()

    async def _wait_for_probe(self, server: Server, reader: PubSubReader) -> None:
        """Wait for the probe, which may be behind a hundred thousand updates: each of them shows that the connection works.

        After each deadline another probe is published: the last one may have overtaken the subscription, and so be lost.

        Raises:
            trio.TooSlowError: Nothing at all arrives for the deadline.
        """
        while True:
            handled = reader.handled
            with trio.move_on_after(self._options.deadline):
                await self._probe_arrived.wait()
                return
            if reader.handled == handled:
                raise trio.TooSlowError("the subscription is silent")
            await self._publish_probe(server)

    async def _publish_probe_with_others(self) -> bool:
        """Publish a probe in one round trip with what else is periodic. Returns whether that has succeeded."""
        if self._options.run_calls is None:
            return False
        try:
            (answer,) = await self._options.run_calls([ScriptCall(_PUBLISH, [self._probe], [])])
        except BrokerError:
            return False
        return not isinstance(answer, BrokerError)

    async def _publish_probe(self, server: Server) -> None:
        """Try until it is published: the pool's connections may be those of a server that has gone, and to drop the
        subscription for that would lose what is on its way.

        Raises:
            trio.TooSlowError: It is not published by the deadline.
        """
        attempt = 0
        with trio.fail_after(self._options.deadline):
            while True:
                try:
                    (answer,) = await self._loop.run_aio_coroutine(server.exchange([("PUBLISH", self._probe, b"")]))
                except (RedisError, OSError):
                    await trio.sleep(backoff(attempt) / 10)
                    attempt += 1
                else:
                    if isinstance(answer, RedisError):
                        raise answer
                    return


def _describe(error: Exception) -> str:
    text = str(error) or ("the server did not answer in time" if isinstance(error, trio.TooSlowError) else "")
    return f"{type(error).__name__}: {text}"
