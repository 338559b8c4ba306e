"""Follow a relay from Trio.

async with subscribe("ws://127.0.0.1:8000/ws/tasks", tasks=["demo"]) as updates:
    async for update in updates:
        print(update.task_id, update.state)
"""

import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Unpack

import trio

from relay_client.subscriber.endpoint import Endpoint
from relay_client.subscriber.runtime import READ_SIZE, AsyncFunction, ConnectError, Signal, Stream
from relay_client.subscriber.subscription import SubscribeOptions, Updates, new_subscription, running

__all__ = ["SubscribeOptions", "Updates", "subscribe"]


@asynccontextmanager
async def subscribe(
    url: str | None = None, tasks: Iterable[str] = (), **options: Unpack[SubscribeOptions]
) -> AsyncIterator[Updates]:
    """Follow a relay for the time of the block.

    Enters at once: the connection is made in the background, in this block's own nursery, and made again whenever it is lost.
    Leaving the block closes it, within a second; cancelling the block closes it at once. What the block raises comes out as it
    is, not in a group.

    Args:
        url: Of the relay, ``https://host``, or of its WebSocket, ``wss://host/ws/tasks``. By default that in ``RELAY_URL``,
            or a relay on this machine.
        tasks: Ids of the tasks to follow. `Updates.subscribe` and `Updates.unsubscribe` change them later.
        options: See `SubscribeOptions`.

    Raises:
        ValueError: An argument can never work.
    """
    runtime = TrioRuntime()
    subscriptions, supervisor = new_subscription(runtime, url, tasks, **options)
    async with running(runtime, subscriptions, supervisor) as updates:
        yield updates


class _Signal:
    def __init__(self) -> None:
        self._lot = trio.lowlevel.ParkingLot()

    def notify(self) -> None:
        self._lot.unpark_all()

    async def wait(self) -> None:
        await self._lot.park()


class _Stream:
    def __init__(self, stream: trio.abc.Stream, socket: trio.socket.SocketType) -> None:
        self._stream = stream
        self._socket = socket

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionResetError(str(error)) from error

    async def receive_some(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(READ_SIZE))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionResetError(str(error)) from error

    def abort(self) -> None:
        self._socket.close()


class TrioRuntime:
    """`relay_client.subscriber.runtime.Runtime` for Trio."""

    def current_time(self) -> float:
        return trio.current_time()

    def new_signal(self) -> Signal:
        return _Signal()

    def deadline(self, at: float) -> AbstractAsyncContextManager[object]:
        return _deadline(at)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()

    async def connect(self, endpoint: Endpoint) -> Stream:
        try:
            stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        except OSError as error:
            raise ConnectError(_first_message(error)) from error
        if endpoint.ssl_context is None:
            return _Stream(stream, stream.socket)
        secure = trio.SSLStream(stream, endpoint.ssl_context, server_hostname=endpoint.host, https_compatible=True)
        try:
            # Now rather than with the first byte, where the reason of a failure would be lost.
            await secure.do_handshake()
        except trio.BrokenResourceError as error:
            stream.socket.close()
            cause = error.__cause__
            invalid = isinstance(cause, ssl.SSLCertVerificationError)
            raise ConnectError(f"TLS: {cause or error}", certificate_invalid=invalid) from error
        except BaseException:
            stream.socket.close()
            raise
        return _Stream(secure, stream.socket)

    async def run_until_first_ends(self, first: AsyncFunction, second: AsyncFunction) -> None:
        async with trio.open_nursery() as nursery:

            async def run(function: AsyncFunction) -> None:
                await function()
                nursery.cancel_scope.cancel()

            nursery.start_soon(run, first)
            nursery.start_soon(run, second)

    @asynccontextmanager
    async def in_background(self, function: AsyncFunction) -> AsyncIterator[None]:
        raised: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(function)
            try:
                yield
            except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - raised again below
                raised = error
            finally:
                nursery.cancel_scope.cancel()
        if raised is not None:
            raise raised  # here, since the nursery would put it into a group


@asynccontextmanager
async def _deadline(at: float) -> AsyncIterator[None]:
    with trio.CancelScope(deadline=at) as scope:
        yield
    if scope.cancelled_caught:
        raise TimeoutError


def _first_message(error: OSError) -> str:
    """Trio collects what each address of a host answered in a group; the first is as good as any."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return str(cause or error)
