"""Redis for Trio code, over redis-py and the trio-asyncio bridge: what publishes, reads and subscribes."""

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

import msgspec
import structlog
import trio
from relay_wire import keys, publications
from relay_wire.channels import GENERAL, TASK_DELTA
from relay_wire.creation import NO_OPTIONS, CreationOptions
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script
from relay_wire.trio_bridge import trio_asyncio

from relay.broker import script_calls
from relay.broker.channel_subscriptions import ChannelSubscriptions
from relay.broker.child_roll_ups import ChildRollUps
from relay.broker.client_calls import CONNECTIONS, ClientCalls
from relay.broker.client_publishes import CONNECTIONS as PUBLISH_CONNECTIONS
from relay.broker.client_publishes import ClientPublishes
from relay.broker.commands import Commands
from relay.broker.contract import MessageHandler, PubSubReceiver, RunCalls
from relay.broker.dedicated_connection import DedicatedConnection
from relay.broker.event_positions import EventPositions
from relay.broker.history_pages import HistoryPages
from relay.broker.history_ranges import HistoryRanges
from relay.broker.presence import Presence
from relay.broker.publication_times import PublicationTimes
from relay.broker.publish_ingester import PublishIngester
from relay.broker.pubsub import NO_RECEIVER, PubSub
from relay.broker.server_usage import ServerUsage
from relay.broker.task_store import TaskStore
from relay.broker.topology import Servers
from relay.broker.write_probe import WriteProbe
from relay.config import Settings
from relay.core.channels import task_channel
from relay.core.errors import BrokerError, BrokerRefused, StateTooLarge
from relay.core.hub import Hub
from relay.core.updates import Position, Update
from relay.traces import Traces

_log = structlog.get_logger("relay.redis")

#: What a single server says about itself.
_INFO = Script.of("return redis.call('INFO')")


class RedisBroker:
    """Redis for one process. `open_redis` makes one, owns its connections, and closes them when its block ends."""

    def __init__(
        self,
        servers: Servers,
        client_servers: Servers,
        publish_servers: Servers,
        loop: trio_asyncio.TrioEventLoop,
        settings: Settings,
    ) -> None:
        """Make it; the first call connects.

        Args:
            servers: Connections for the relay itself.
            client_servers: Connections for what clients ask to be read: however many ask, the relay's own calls do not wait.
            publish_servers: Connections for what clients publish over HTTP.
            loop: Where redis-py runs.
            settings: Time-outs, retention and bounds.
        """
        self._servers = servers
        self._loop = loop
        self._settings = settings
        self._retention = script_calls.retention_of(settings)
        self._pubsub = PubSub(servers, settings.redis_health_interval, settings.redis_timeout)
        self._commands = Commands(servers, loop, settings.redis_timeout, self._pubsub.invalidate_topology)
        client_commands = Commands(client_servers, loop, settings.redis_timeout, self._pubsub.invalidate_topology)
        self._client_calls = ClientCalls(client_commands.run_calls, CONNECTIONS, settings.redis_timeout)
        publish_commands = Commands(publish_servers, loop, settings.redis_timeout, self._pubsub.invalidate_topology)
        run_publishes = partial(publish_commands.run_calls, replicas=settings.wait_replicas)
        self._publish_calls = ClientCalls(run_publishes, PUBLISH_CONNECTIONS, settings.redis_timeout)
        self._dedicated: list[DedicatedConnection] = []
        # What is done at the same tick goes in one round trip.
        self._periodic_calls = ClientCalls(self._run_on(self._own_connection()), 1, settings.redis_timeout)
        self._write_probe = WriteProbe(
            self._periodic_calls.run_calls,
            self._retention,
            settings.redis_health_interval,
            is_sharded=servers.is_sharded,
        )

    @property
    def has_families(self) -> bool:
        """Whether tasks can be followed together with their children: not on a cluster."""
        return not self._servers.is_sharded

    @property
    def alive(self) -> bool:
        """Whether the subscription is up and its last probe arrived within the deadline."""
        return self._pubsub.alive

    @property
    def unready_reason(self) -> str | None:
        """Why Redis cannot be used now: the subscription is down, or Redis does not take writes. None when it can."""
        if not self._pubsub.alive:
            return self._pubsub.failure or "the subscription is not up yet"
        return self._write_probe.failure

    @property
    def probe_age(self) -> float:
        """Seconds since the last probe arrived, or since the subscription was begun."""
        return self._pubsub.probe_age

    @property
    def reconnects(self) -> int:
        """How often the subscription was lost."""
        return self._pubsub.reconnects

    @property
    def output_buffer_disconnects(self) -> int:
        """How often Redis closed the subscription since it had more than ``client-output-buffer-limit`` to send."""
        return self._pubsub.output_buffer_disconnects

    async def command(self, *command: Any, key: str | None = None) -> Any:
        """Run one command, see `Commands.command`."""
        return await self._commands.command(*command, key=key)

    async def run_calls(self, calls: Sequence[ScriptCall], replicas: int = 0) -> list[Any]:
        """Run scripts, see `Commands.run_calls`."""
        return await self._commands.run_calls(calls, replicas)

    async def close(self) -> None:
        """Close the connections that belong to no pool."""
        for connection in self._dedicated:
            await connection.close()

    async def publish_durably(
        self,
        channel: str,
        kind: str,
        data: bytes,
        *,
        options: CreationOptions = NO_OPTIONS,
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Publish one update durably.

        Args:
            channel: Relay's channel name.
            kind: The update's type as clients see it.
            data: JSON text, as clients are to get it.
            options: The task's owner and parent.
            idempotency_key: A key that was used for this channel within the last five minutes makes it the same update: the
                position is that of the first, and nothing is published again.

        Returns:
            The update's position, or None when Redis has no memory for it: it was then delivered live only.

        Raises:
            BadMessage: The data of a task is no object or has too many fields.
            StateTooLarge: The state of the task would be too large. If only appended text or lists do not fit, the other fields
                are stored.
            BrokerUnavailable: No answer within the deadline; the update may have been published.
            BrokerRefused: Redis answered with an error. Also when it has no memory for an update that appends.
        """
        sharded = self._servers.is_sharded
        call = script_calls.publish_call(
            channel,
            kind,
            data,
            self._retention,
            options=options,
            idempotency_key=idempotency_key,
            sharded=sharded,
        )
        (answer,) = await self._commands.run_calls([call], self._settings.wait_replicas)
        has_operations = call.values[13] == TASK_DELTA
        if isinstance(answer, BrokerRefused) and answer.is_out_of_memory and not has_operations:
            _log.error("redis is out of memory, update delivered live only", channel=channel)
            redis_channel, message = keys.pubsub_channel(channel), publications.unpersisted_message(kind, data)
            command = "SPUBLISH" if sharded else "PUBLISH"
            await self._commands.command(command, redis_channel, message, key=redis_channel)
            return None
        result = answer if isinstance(answer, BrokerError) else script_calls.read_result(answer)
        if isinstance(result, BrokerError):
            raise result
        if result.is_truncated:
            raise StateTooLarge(script_calls.TRUNCATED)
        return result.position

    async def publish(self, channel: str, message: bytes) -> int:
        """Publish plainly. Returns how many subscribers Redis sent it to; see `Commands.command` for what is raised."""
        count = await self._commands.command("PUBLISH", channel, message)
        if not isinstance(count, int):
            raise BrokerRefused(f"Redis gave an answer to PUBLISH that cannot be read: {count!r:.200}")
        return count

    async def publish_task_update(self, task_id: str | int, update: dict[str, Any]) -> Position | None:
        """Publish the fields of a task that changed, durably; see `publish_durably` for what is returned and raised."""
        return await self.publish_durably(task_channel(task_id), "task_update", msgspec.json.encode(update))

    async def publish_general_update(self, update: dict[str, Any]) -> Position | None:
        """Publish an update for every client, durably; see `publish_durably` for what is returned and raised."""
        return await self.publish_durably(GENERAL, "general_update", msgspec.json.encode(update))

    async def ping(self) -> float:
        """Return the seconds of one round trip; see `Commands.command` for what is raised."""
        started = monotonic()
        await self._commands.command("PING")
        return monotonic() - started

    async def read_usage(self) -> dict[str, ServerUsage]:
        """Return what each server uses, by its name; see `Commands.read_usage` for what is raised."""
        if self._servers.is_sharded:
            return await self._commands.read_usage()
        (answer,) = await self._periodic_calls.run_calls([ScriptCall(_INFO, [keys.NODES], [])])
        if isinstance(answer, BrokerError):
            raise answer
        if not isinstance(answer, bytes):
            raise BrokerRefused(f"Redis gave an answer to INFO that cannot be read: {answer!r:.200}")
        return {self._servers.any().name: ServerUsage.parse(answer.decode(errors="replace"))}

    def subscribe_raw(self, channel: str, handler: MessageHandler) -> Callable[[], None]:
        """Call a handler with each message's channel and bytes, inline: it must neither block nor raise.

        Call before `start_listening`.

        Returns:
            A function that removes the handler.
        """
        return self._pubsub.add(channel, handler)

    def follow(
        self,
        hub: Hub,
        on_flushed: Callable[[], None] = lambda: None,
        on_trace: Callable[[str, Position, str], None] | None = None,
    ) -> ChannelSubscriptions:
        """Return what keeps a hub's channels subscribed; pass it to `start_listening`, and run it beside that.

        Args:
            hub: Whose channels they are.
            on_flushed: Called when the updates of a turn were handed out.
            on_trace: See `ChannelSubscriptions`.
        """
        return ChannelSubscriptions(
            hub,
            self._commands.run_calls,
            self._client_calls.run_calls,
            self._pubsub.subscribe,
            self._pubsub.unsubscribe,
            self._retention,
            self._settings.redis_timeout,
            on_flushed,
            on_trace,
        )

    def tasks(self, max_tasks: int) -> TaskStore:
        """Return the tasks in Redis, read on the connections for clients."""
        return TaskStore(
            self._commands.run_calls,
            self._periodic_calls.run_calls,
            self._client_calls.run_calls,
            self._retention,
            max_tasks,
            sharded=self._servers.is_sharded,
        )

    def child_roll_ups(self) -> ChildRollUps:
        """Return what rolls up children into their parents."""
        return ChildRollUps(
            self._commands.run_calls,
            self._periodic_calls.run_calls,
            self._retention,
            sharded=self._servers.is_sharded,
        )

    def client_publishes(self, traces: Traces | None = None) -> ClientPublishes:
        """Return what publishes for clients, on connections of their own."""
        run_calls, sharded = self._publish_calls.run_calls, self._servers.is_sharded
        return ClientPublishes(run_calls, self._retention, sharded=sharded, traces=traces)

    def event_positions(self) -> EventPositions:
        """Return what remembers the ids of updates, on the connections for clients."""
        return EventPositions(self._client_calls.run_calls, self._retention)

    def presence(self) -> Presence:
        """Return who is present in channels; run it beside the subscription."""
        return Presence(self._client_calls.run_calls, sharded=self._servers.is_sharded)

    def history_ranges(self) -> HistoryRanges:
        """Return what reads parts of histories, on the connections for clients."""
        return HistoryRanges(self._client_calls.run_calls)

    def history_pages(self) -> HistoryPages:
        """Return what reads histories page by page, on the connections for clients."""
        return HistoryPages(self._client_calls.run_calls, self._retention)

    def publication_times(self) -> PublicationTimes:
        """Return what reads when updates were stored."""
        return PublicationTimes(self._commands.run_calls, sharded=self._servers.is_sharded)

    def publish_ingester(
        self,
        deliver: Callable[[Update], None],
        on_unpersisted: Callable[[], None],
        on_stored: Callable[[int], None] = lambda _: None,
        traces: Traces | None = None,
    ) -> PublishIngester:
        """Return what persists plain messages; pass its `on_reconnecting` to `start_listening`, and run it beside that.

        Args:
            deliver: Delivers an update that Redis does not persist to this process's own clients.
            on_unpersisted: Called each time that this happens.
            on_stored: Called with how many messages this process has stored, and no other before it.
            traces: Makes spans, if anything does.
        """
        connection = self._own_connection()
        ingester = PublishIngester(
            self._run_on(connection),
            self._retention,
            self._servers.is_sharded,
            self.publish,
            self._commands.count_subscribers,
            deliver,
            on_unpersisted,
            on_stored,
            traces,
            connection,
        )
        self._pubsub.add(keys.BARRIER, ingester.on_barrier_message)
        self._pubsub.on_turn_end = ingester.on_turn_end
        return ingester

    def _own_connection(self) -> DedicatedConnection | None:
        """Return a connection for one caller at a time; None on a cluster, where calls take the connections of the pools."""
        if self._servers.is_sharded:
            return None
        connection = DedicatedConnection(self._servers.any(), self._loop, self._settings.redis_timeout)
        self._dedicated.append(connection)
        return connection

    def _run_on(self, connection: DedicatedConnection | None) -> RunCalls:
        return self._commands.run_calls if connection is None else partial(self._commands.run_calls_on, connection)

    @property
    def periodic_calls(self) -> RunCalls:
        """Runs scripts of the relay itself that are run again and again and come to the same if they are run twice.

        Those that are asked for in one turn of the event loop go in one round trip.
        """
        return self._periodic_calls.run_calls

    @property
    def client_calls(self) -> RunCalls:
        """Runs scripts for clients, on connections that the relay itself does not need."""
        return self._client_calls.run_calls

    async def run_shared_calls(self) -> None:
        """Serve what clients ask to be read and published, and what is periodic, until cancelled. `open_redis` runs it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._client_calls.run)
            nursery.start_soon(self._publish_calls.run)
            nursery.start_soon(self._periodic_calls.run)

    async def start_listening(
        self, receiver: PubSubReceiver = NO_RECEIVER, on_connecting: Callable[[], None] = lambda: None
    ) -> None:
        """Receive the subscribed channels until cancelled, and verify that Redis takes writes. Run it in a nursery, once.

        Args:
            receiver: Receives messages on Relay's own channels, such as what `follow` returns.
            on_connecting: Called before a new connection receives plain messages: some may have been missed before it.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_probe.run)
            await self._pubsub.run(
                self._loop, receiver, on_connecting, self._write_probe.check, self._periodic_calls.run_calls
            )
