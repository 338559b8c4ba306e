"""Follow a relay from asyncio.

async with subscribe("ws://127.0.0.1:8000/ws/tasks", tasks=["demo"]) as updates:
    async for update in updates:
        print(update.task_id, update.state)
"""

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Unpack

from relay_client.subscriber.endpoint import Endpoint
from relay_client.subscriber.happy_eyeballs import connect_socket
from relay_client.subscriber.runtime import READ_SIZE, AsyncFunction, ConnectError, Signal, Stream
from relay_client.subscriber.subscription import SubscribeOptions, Updates, new_subscription, running

__all__ = ["SubscribeOptions", "Updates", "subscribe"]


@asynccontextmanager
async def subscribe(
    url: str | None = None, tasks: Iterable[str] = (), **options: Unpack[SubscribeOptions]
) -> AsyncIterator[Updates]:
    """Follow a relay for the time of the block.

    Enters at once: the connection is made in the background, in this block's own task group, and made again whenever it is
    lost. Leaving the block closes it, within a second; cancelling the block closes it at once. What the block raises comes out
    as it is, not in a group.

    Args:
        url: Of the relay, ``https://host``, or of its WebSocket, ``wss://host/ws/tasks``. By default that in ``RELAY_URL``,
            or a relay on this machine.
        tasks: Ids of the tasks to follow. `Updates.subscribe` and `Updates.unsubscribe` change them later.
        options: See `SubscribeOptions`.

    Raises:
        ValueError: An argument can never work.
    """
    runtime = AsyncioRuntime()
    subscriptions, supervisor = new_subscription(runtime, url, tasks, **options)
    async with running(runtime, subscriptions, supervisor) as updates:
        yield updates


class AsyncioSignal:
    """`relay_client.subscriber.runtime.Signal` for asyncio."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        # `set` wakes all that wait, and they do not look at the event again.
        self._event.set()
        self._event.clear()

    async def wait(self) -> None:
        await self._event.wait()


class _Stream:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send_all(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive_some(self) -> bytes:
        return await self._reader.read(READ_SIZE)

    def abort(self) -> None:
        self._writer.transport.abort()


class AsyncioRuntime:
    """`relay_client.subscriber.runtime.Runtime` for asyncio."""

    def current_time(self) -> float:
        return asyncio.get_running_loop().time()

    def new_signal(self) -> Signal:
        return AsyncioSignal()

    def deadline(self, at: float) -> AbstractAsyncContextManager[object]:
        return asyncio.timeout_at(None if math.isinf(at) else at)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def checkpoint(self) -> None:
        return

    async def connect(self, endpoint: Endpoint) -> Stream:
        context = endpoint.ssl_context
        try:
            sock = await connect_socket(endpoint.host, endpoint.port)
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=context, server_hostname=None if context is None else endpoint.host, limit=READ_SIZE
            )
        except ssl.SSLError as error:
            invalid = isinstance(error, ssl.SSLCertVerificationError)
            raise ConnectError(f"TLS: {error}", certificate_invalid=invalid) from error
        except OSError as error:
            raise ConnectError(str(error) or type(error).__name__) from error
        return _Stream(reader, writer)

    async def run_until_first_ends(self, first: AsyncFunction, second: AsyncFunction) -> None:
        async with asyncio.TaskGroup() as group:

            async def run(function: AsyncFunction) -> None:
                await function()

            tasks = [group.create_task(run(function)) for function in (first, second)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    @asynccontextmanager
    async def in_background(self, function: AsyncFunction) -> AsyncIterator[None]:
        raised: BaseException | None = None
        async with asyncio.TaskGroup() as group:

            async def run() -> None:
                await function()

            task = group.create_task(run())
            try:
                yield
            except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - raised again below
                raised = error
            finally:
                task.cancel()
        if raised is not None:
            raise raised  # here, since the task group would put it into another
