"""RedisService: Redis for Trio code, over redis-py and the trio-asyncio bridge.

It publishes, keeps the one subscription of the process, and puts a deadline on every call.
"""

import hashlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, TypeVar

import msgspec
import structlog
import trio
import trio_asyncio
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from relay.broker import keys, store
from relay.broker.contract import RawHandler
from relay.broker.feeds import Feeds
from relay.broker.listener import Listener
from relay.broker.recorder import Recorder
from relay.broker.tasks import Tasks
from relay.config import RedisSettings, Settings
from relay.core.channels import GENERAL, task_channel
from relay.core.errors import BrokerError, BrokerRefused, BrokerUnavailable
from relay.core.hub import Hub
from relay.core.updates import Position, Update

_log = structlog.get_logger("relay.redis")
_T = TypeVar("_T")

#: A callback takes the decoded message; it may be a plain function or an async one.
Callback = Callable[[Any], Awaitable[None] | None]

#: Messages that may wait for one async callback. A callback that is slower loses the newest, logged and counted.
CALLBACK_QUEUE = 1024

#: How long an idempotency key is remembered, in milliseconds.
IDEMPOTENCY_MS = 300_000


class RedisService:
    """Open one with `open_redis`, which owns its connections and tasks and ends them when its block ends."""

    def __init__(
        self, client: Redis, subscriber: ConnectionPool, loop: trio_asyncio.TrioEventLoop, settings: Settings
    ) -> None:
        self._client = client
        self._loop = loop
        self._timeout = settings.redis_timeout
        self._retention = store.Retention.of(settings)
        self._listener = Listener(subscriber, self.publish, settings.redis_health_interval, settings.redis_timeout)
        self._loaded: set[str] = set()
        self._callbacks: list[tuple[trio.MemoryReceiveChannel[Any], Callback]] = []
        self._nursery: trio.Nursery | None = None
        self.callback_overflows = 0

    @property
    def alive(self) -> bool:
        """The subscription is up and has answered within its deadline."""
        return self._listener.alive

    @property
    def reconnects(self) -> int:
        """How often the subscription had to be built anew."""
        return self._listener.reconnects

    async def call(self, command: Callable[[Redis], Awaitable[_T]]) -> _T:
        """Run an asyncio-flavoured redis-py command from Trio, within the deadline.

        Raises BrokerUnavailable or BrokerRefused. Cancelling ends it at once.
        """

        async def run() -> _T:
            return await command(self._client)

        try:
            with trio.fail_after(self._timeout):
                return await self._loop.run_aio_coroutine(run())  # type: ignore[no-any-return]
        except trio.TooSlowError:
            raise BrokerUnavailable(f"Redis did not answer within {self._timeout} s") from None
        except (RedisError, OSError) as error:
            raise _translated(error) from error

    async def run_script(self, script: str, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
        """Run a script several times, in order, in one round trip; the answers, with an error in place of a failed one's.

        Raises BrokerUnavailable when Redis cannot be reached; any of the calls may have been carried out then.
        """
        sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()

        async def run(client: Redis) -> list[Any]:
            async with client.pipeline(transaction=False) as pipeline:
                load = sha not in self._loaded
                if load:
                    # In the same pipeline: whoever comes first, no call overtakes another for want of its script.
                    pipeline.script_load(script)
                for names, arguments in calls:
                    pipeline.evalsha(sha, len(names), *names, *arguments)
                answers: list[Any] = await pipeline.execute(raise_on_error=False)
                return answers[1:] if load else answers

        answers = await self.call(run)
        self._loaded.add(sha)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            self._loaded.discard(sha)  # Redis was restarted
            answers = await self.call(run)
        return [_translated(answer) if isinstance(answer, RedisError) else answer for answer in answers]

    async def record(
        self, channel: str, kind: str, data: bytes, *, idempotency_key: str | None = None
    ) -> Position | None:
        """Publish one update durably; returns its position, or None when Redis has no memory for it: it was then
        delivered live only.

        A key that was used for this channel within the last five minutes makes it the same update: the position is
        that of the first, and nothing is published again. Raises BadMessage, BrokerUnavailable or BrokerRefused.
        """
        known = store.Known("id", idempotency_key, IDEMPOTENCY_MS) if idempotency_key is not None else None
        call = store.publish_arguments(channel, kind, data, self._retention, known=known)
        (answer,) = await self.run_script(store.PUBLISH_SCRIPT, [call])
        if isinstance(answer, BrokerRefused) and answer.is_out_of_memory:
            _log.error("redis is out of memory, update delivered live only", channel=channel)
            await self.publish(keys.feed(channel), store.unrecorded_message(kind, data))
            return None
        if isinstance(answer, BrokerError):
            raise answer
        return store.recorded(answer).position

    async def publish(self, channel: str, message: bytes) -> int:
        """A plain ``PUBLISH``; returns how many subscribers Redis handed it to."""
        return await self.call(lambda client: client.publish(channel, message))

    async def publish_task_update(self, task_id: str | int, update: dict[str, Any]) -> Position | None:
        """Publish the fields of a task that changed, durably; see `record` for what is returned and raised."""
        return await self.record(task_channel(task_id), "task_update", msgspec.json.encode(update))

    async def publish_general_update(self, update: dict[str, Any]) -> Position | None:
        """Publish something for every connected client, durably; see `record`."""
        return await self.record(GENERAL, "general_update", msgspec.json.encode(update))

    async def ping(self) -> float:
        """A round trip; returns its seconds."""
        started = monotonic()
        await self.call(lambda client: client.ping())
        return monotonic() - started

    def subscribe_raw(self, channel: str, handler: RawHandler) -> Callable[[], None]:
        """Call the handler with each message's channel and bytes, inline: it must neither block nor raise.

        Takes effect with `start_listening`, so call it before. Returns what ends it.
        """
        return self._listener.add(channel, handler)

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

        remove = self._listener.add(channel, enqueue)
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
            self._listener.subscribe,
            self._listener.unsubscribe,
            self._retention,
            self._timeout,
        )
        self._listener.feeds = feeds
        return feeds

    def tasks(self, max_tasks: int) -> Tasks:
        """The tasks in Redis."""
        return Tasks(self.call, self.run_script, self._retention, max_tasks)

    def recorder(self, pass_on: Callable[[Update], None], on_refused: Callable[[], None]) -> Recorder:
        """What records plain publishes; run it beside `start_listening`."""
        recorder = Recorder(self.run_script, self._retention, False, pass_on, on_refused)
        self._listener.on_connecting = recorder.start_hearing
        return recorder

    async def start_listening(self) -> None:
        """Hear the subscribed channels until cancelled; reconnects for ever. Run it in a nursery, once."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for receive, callback in self._callbacks:
                nursery.start_soon(self._call_back, receive, callback)
            await self._listener.run(self._loop)


def _translated(error: Exception) -> BrokerError:
    """A redis-py error as one of ours."""
    if isinstance(error, RedisConnectionError | RedisTimeoutError | OSError):
        return BrokerUnavailable(f"Redis cannot be reached: {error}")
    if isinstance(error, BusyLoadingError | ReadOnlyError):
        return BrokerUnavailable(f"Redis is not ready: {error}")
    return BrokerRefused(f"Redis refused: {error}", is_out_of_memory=isinstance(error, OutOfMemoryError))


@asynccontextmanager
async def open_redis(url: str, settings: Settings, redis_settings: RedisSettings) -> AsyncIterator[RedisService]:
    """A RedisService for the time of the block. Opening does not connect: a Redis that is away is no error here."""
    options: dict[str, Any] = {
        "max_connections": settings.redis_max_connections,
        "socket_timeout": settings.redis_timeout,
        "socket_connect_timeout": settings.redis_timeout,
        # Our deadline is the whole call's, and redis-py's own retries would multiply it.
        "retry": Retry(NoBackoff(), 0),
        "client_name": "relay",
    }
    if redis_settings.ssl_ca_certs is not None:
        options["ssl_ca_certs"] = str(redis_settings.ssl_ca_certs)
    async with trio_asyncio.open_loop() as loop:
        pool = ConnectionPool.from_url(url, **options)
        # RESP2 for the subscription: there redis-py hands messages on without a detour for each.
        subscriber = ConnectionPool.from_url(url, **options, protocol=2)
        client: Redis = Redis(connection_pool=pool)
        try:
            yield RedisService(client, subscriber, loop, settings)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + settings.redis_timeout):
                await loop.run_aio_coroutine(subscriber.disconnect())
                await loop.run_aio_coroutine(pool.disconnect())
