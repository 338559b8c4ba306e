"""RedisService: Redis for Trio code, over redis-py and the trio-asyncio bridge.

It publishes, keeps the one subscription of the process, and puts a deadline on every call.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import msgspec
import structlog
import trio
import trio_asyncio
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from relay_wire import keys, publications
from relay_wire.channels import GENERAL
from relay_wire.redis_urls import parse
from relay_wire.scripts import Script

from relay.broker import store
from relay.broker.connections import Server, Servers, open_servers
from relay.broker.feeds import Feeds, RunScript
from relay.broker.lane import Lane
from relay.broker.listener import RawHandler
from relay.broker.recorder import Recorder
from relay.broker.subscription import Subscription
from relay.broker.tasks import Tasks
from relay.config import RedisSettings, Settings
from relay.core.channels import task_channel
from relay.core.errors import BrokerError, BrokerRefused, BrokerUnavailable
from relay.core.hub import Hub
from relay.core.updates import Position, Update

_log = structlog.get_logger("relay.redis")
_T = TypeVar("_T")

#: A callback takes the decoded message; it may be a plain function or an async one.
Callback = Callable[[Any], Awaitable[None] | None]

#: Messages that may wait for one async callback. A callback that is slower loses the newest, logged and counted.
CALLBACK_QUEUE = 1024

#: How often a call goes where a cluster points, until it says that it does not know.
_REDIRECTIONS = 4

#: For now: the same call may do later.
_NOT_READY = (BusyLoadingError, ReadOnlyError, ClusterDownError, MovedError, AskError, TryAgainError, MasterDownError)

#: The same, of errors that redis-py has no class for: somebody's script runs on, or replicas are missing.
_NOT_NOW = ("BUSY ", "NOREPLICAS ")


class RedisService:
    """Open one with `open_redis`, which owns its connections and tasks and ends them when its block ends."""

    def __init__(self, servers: Servers, loop: trio_asyncio.TrioEventLoop, settings: Settings) -> None:
        self._servers = servers
        self._loop = loop
        self._timeout = settings.redis_timeout
        self._replicas = settings.wait_replicas
        self._retention = store.retention_of(settings)
        self._subscription = Subscription(servers, settings.redis_health_interval, settings.redis_timeout)
        self._callbacks: list[tuple[trio.MemoryReceiveChannel[Any], Callback]] = []
        self._nursery: trio.Nursery | None = None
        self._is_stale = True
        self._lanes: list[Lane] = []
        self.callback_overflows = 0

    @property
    def alive(self) -> bool:
        """The subscription is up and has answered within its deadline."""
        return self._subscription.alive

    @property
    def reconnects(self) -> int:
        """How often the subscription had to be built anew."""
        return self._subscription.reconnects

    async def command(self, *command: Any, key: str | None = None) -> Any:
        """Run one command, on the server of a key where one is given, within the deadline.

        Raises BrokerUnavailable or BrokerRefused. Cancelling ends it at once.
        """

        async def run() -> Any:
            await self._known()
            server = self._servers.any() if key is None else self._servers.of(key)
            (answer,) = await server.exchange([command])
            return answer

        answer = await self._within_deadline(run)
        if isinstance(answer, Exception):
            raise _translated(answer)
        return answer

    async def run_script(
        self, script: Script, calls: Sequence[tuple[list[str], list[Any]]], replicas: int = 0
    ) -> list[Any]:
        """Run a script several times in one round trip, in order for each server; the answers, with an error in place of
        a failed one's. With replicas given, so many must have it too, or the answers are BrokerUnavailable.

        Raises BrokerUnavailable when no Redis can be reached; any of the calls may have been carried out then.
        """
        answers: list[Any] = [None] * len(calls)

        async def run() -> None:
            await self._known()
            left = list(range(len(calls)))
            for attempt in range(_REDIRECTIONS):
                if attempt:
                    await asyncio.sleep(0.05 * attempt)
                    await self._servers.refresh()
                await self._run_on_servers(script, calls, left, answers, replicas)
                # The cluster has moved what they are about, or is about to.
                left = [place for place in left if isinstance(answers[place], MovedError | AskError | TryAgainError)]
                if not left:
                    return
                self._look_again()

        await self._within_deadline(run)
        return [_translated(answer) if isinstance(answer, Exception) else answer for answer in answers]

    async def _run_script_on(
        self, lane: Lane, script: Script, calls: Sequence[tuple[list[str], list[Any]]]
    ) -> list[Any]:
        """The same on a lane of the caller's own, where that is possible; calls may be carried out twice."""
        if not lane.is_possible:
            return await self.run_script(script, calls)
        try:
            answers = await lane.run_script(script, calls)
        except trio.TooSlowError:
            raise BrokerUnavailable(f"Redis did not answer within {self._timeout:g} s") from None
        except (RedisError, OSError):
            return await self.run_script(script, calls)
        if any(isinstance(answer, (*_NOT_READY, NoScriptError)) for answer in answers):
            await lane.close()
            return await self.run_script(script, calls)
        return [_translated(answer) if isinstance(answer, Exception) else answer for answer in answers]

    async def close(self) -> None:
        """Close what is not the pools'."""
        for lane in self._lanes:
            await lane.close()

    async def _run_on_servers(
        self,
        script: Script,
        calls: Sequence[tuple[list[str], list[Any]]],
        places: list[int],
        answers: list[Any],
        replicas: int,
    ) -> None:
        groups: dict[Server, list[int]] = {}
        for place in places:
            groups.setdefault(self._servers.of(calls[place][0][0]), []).append(place)

        async def run(server: Server, mine: list[int]) -> None:
            some = [calls[place] for place in mine]
            for place, answer in zip(
                mine, await server.run_script(script, some, replicas, self._timeout / 2), strict=True
            ):
                answers[place] = answer

        if len(groups) == 1:
            await run(*groups.popitem())
            return

        async def run_or_note(server: Server, mine: list[int]) -> None:
            """One node that does not answer must not take the others' answers with it."""
            try:
                async with asyncio.timeout(self._timeout * 0.9):
                    await run(server, mine)
            except (RedisError, OSError) as error:
                self._look_again()
                for place in mine:
                    answers[place] = error

        async with asyncio.TaskGroup() as group:
            for server, mine in groups.items():
                group.create_task(run_or_note(server, mine))

    def _look_again(self) -> None:
        """A server has failed us: it may be another one's turn."""
        self._is_stale = True
        self._subscription.look_again()

    async def _known(self) -> None:
        """asyncio: find out where to go, at first, and once when a server has failed."""
        if self._is_stale:
            self._is_stale = False
            await self._servers.refresh()

    async def _within_deadline(self, run: Callable[[], Awaitable[_T]]) -> _T:
        try:
            with trio.fail_after(self._timeout):
                return await self._loop.run_aio_coroutine(run())  # type: ignore[no-any-return]
        except trio.TooSlowError:
            self._look_again()
            raise BrokerUnavailable(f"Redis did not answer within {self._timeout:g} s") from None
        except (RedisError, OSError) as error:
            self._look_again()
            raise _translated(error) from error

    async def record(
        self, channel: str, kind: str, data: bytes, *, idempotency_key: str | None = None
    ) -> Position | None:
        """Publish one update durably; returns its position, or None when Redis has no memory for it: it was then
        delivered live only.

        A key that was used for this channel within the last five minutes makes it the same update: the position is
        that of the first, and nothing is published again. Raises BadMessage, BrokerUnavailable or BrokerRefused.
        """
        dedup = publications.idempotency_key(idempotency_key) if idempotency_key is not None else None
        sharded = self._servers.is_sharded
        call = store.publish_arguments(channel, kind, data, self._retention, sharded=sharded, dedup=dedup)
        (answer,) = await self.run_script(store.PUBLISH_SCRIPT, [call], self._replicas)
        if isinstance(answer, BrokerRefused) and answer.is_out_of_memory:
            _log.error("redis is out of memory, update delivered live only", channel=channel)
            feed, message = keys.pubsub_channel(channel), publications.unpersisted_message(kind, data)
            await self.command("SPUBLISH" if sharded else "PUBLISH", feed, message, key=feed)
            return None
        if isinstance(answer, BrokerError):
            raise answer
        return publications.publish_result(answer).position

    async def publish(self, channel: str, message: bytes) -> int:
        """A plain ``PUBLISH``; returns how many subscribers Redis handed it to."""
        return int(await self.command("PUBLISH", channel, message))

    async def publish_task_update(self, task_id: str | int, update: dict[str, Any]) -> Position | None:
        """Publish the fields of a task that changed, durably; see `record` for what is returned and raised."""
        return await self.record(task_channel(task_id), "task_update", msgspec.json.encode(update))

    async def publish_general_update(self, update: dict[str, Any]) -> Position | None:
        """Publish something for every connected client, durably; see `record`."""
        return await self.record(GENERAL, "general_update", msgspec.json.encode(update))

    async def ping(self) -> float:
        """A round trip; returns its seconds."""
        started = monotonic()
        await self.command("PING")
        return monotonic() - started

    def subscribe_raw(self, channel: str, handler: RawHandler) -> Callable[[], None]:
        """Call the handler with each message's channel and bytes, inline: it must neither block nor raise.

        Takes effect with `start_listening`, so call it before. Returns what ends it.
        """
        return self._subscription.add(channel, handler)

    def subscribe_to_channel(self, channel: str, callback: Callback) -> Callable[[], None]:
        """Call back with each message on a channel or glob pattern, decoded from JSON.

        Callbacks run one message at a time, in order, in a task of their own, so that a slow one holds up nobody. One
        that raises is logged and called again with the next message. Call before `start_listening`. Returns what ends it.
        """
        send, receive = trio.open_memory_channel[Any](CALLBACK_QUEUE)

        def enqueue(name: str, message: bytes) -> None:
            try:
                send.send_nowait(msgspec.json.decode(message))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                _log.warning("message skipped", channel=name, error=str(error))
            except trio.WouldBlock:
                self.callback_overflows += 1
                _log.error("callback too slow, message lost", channel=name, waiting=CALLBACK_QUEUE)

        remove = self._subscription.add(channel, enqueue)
        if self._nursery is None:
            self._callbacks.append((receive, callback))
        else:
            self._nursery.start_soon(self._call_back, receive, callback)

        def end() -> None:
            remove()
            send.close()

        return end

    @staticmethod
    async def _call_back(receive: trio.MemoryReceiveChannel[Any], callback: Callback) -> None:
        async for message in receive:
            try:
                result = callback(message)
                if inspect.isawaitable(result):
                    await result
            except Exception:  # noqa: BLE001 - other people's code: it must not end the subscription
                _log.exception("callback failed", callback=getattr(callback, "__qualname__", repr(callback)))

    def follow(self, hub: Hub) -> Feeds:
        """The feeds of a hub's channels, heard over this service's subscription; run them beside `start_listening`."""
        feeds = Feeds(
            hub,
            self.run_script,
            self._subscription.subscribe,
            self._subscription.unsubscribe,
            self._retention,
            self._timeout,
        )
        self._subscription.feeds = feeds
        return feeds

    def tasks(self, max_tasks: int) -> Tasks:
        """The tasks in Redis."""
        return Tasks(self.run_script, self._retention, self._servers.is_sharded, max_tasks)

    def recorder(self, pass_on: Callable[[Update], None], on_refused: Callable[[], None]) -> Recorder:
        """What records plain publishes; run it beside `start_listening`."""
        run_script: RunScript = self.run_script
        if not self._servers.is_sharded:  # a cluster has many servers, and its calls go by the pools
            lane = Lane(self._servers.any(), self._loop, self._timeout)
            self._lanes.append(lane)
            run_script = partial(self._run_script_on, lane)
        recorder = Recorder(
            run_script, self._retention, self._servers.is_sharded, self.publish, self._count, pass_on, on_refused
        )
        self._subscription.on_connecting = recorder.start_hearing
        self._subscription.add(keys.BARRIER, recorder.others.hear)
        return recorder

    async def _count(self, channel: str) -> int:
        """How many listen to a channel. Raises BrokerUnavailable or BrokerRefused."""

        async def run() -> int:
            await self._known()
            listening = 0
            for server in self._servers.all():
                (answer,) = await server.exchange([("PUBSUB", "NUMSUB", channel)])
                if isinstance(answer, Exception):
                    raise answer
                listening += int(answer[1])
            return listening

        return await self._within_deadline(run)

    async def start_listening(self) -> None:
        """Hear the subscribed channels until cancelled; reconnects for ever. Run it in a nursery, once."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for receive, callback in self._callbacks:
                nursery.start_soon(self._call_back, receive, callback)
            await self._subscription.run(self._loop)


def _translated(error: Exception) -> BrokerError:
    """A redis-py error as one of ours."""
    if isinstance(error, RedisConnectionError | RedisTimeoutError | OSError):
        return BrokerUnavailable(f"Redis cannot be reached: {error}")
    if isinstance(error, _NOT_READY) or str(error).startswith(_NOT_NOW):
        return BrokerUnavailable(f"Redis is not ready: {error}")
    return BrokerRefused(f"Redis refused: {error}", is_out_of_memory=isinstance(error, OutOfMemoryError))


@asynccontextmanager
async def open_redis(url: str, settings: Settings, redis_settings: RedisSettings) -> AsyncIterator[RedisService]:
    """A RedisService for the time of the block. Opening does not connect: a Redis that is away is no error here."""
    more = {} if redis_settings.ssl_ca_certs is None else {"ssl_ca_certs": str(redis_settings.ssl_ca_certs)}
    async with trio_asyncio.open_loop() as loop:
        servers = open_servers(parse(url), settings, more)
        service = RedisService(servers, loop, settings)
        try:
            yield service
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + settings.redis_timeout):
                await service.close()
                await loop.run_aio_coroutine(servers.close())
