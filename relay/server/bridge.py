"""Relay behind an asyncio server, such as uvicorn: the Trio app runs in a thread of its own.

The thread lives from the lifespan's start-up to its shutdown. Each ASGI call of the server becomes a task in that thread's
nursery; its ``receive`` and ``send`` go back to the server's loop, one call at a time.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import outcome
import trio

from relay.server.socket_options import reset_on_close

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

_START_TIMEOUT = 30.0


class _Caller:
    """Awaits asyncio functions of the server from the Trio thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, token: trio.lowlevel.TrioToken) -> None:
        self._loop = loop
        self._token = token

    async def call(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        task = trio.lowlevel.current_task()

        async def run() -> Any:
            return await function(*args)

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)

        def wake() -> None:
            trio.lowlevel.reschedule(task, outcome.capture(future.result))

        def on_done(_: object) -> None:
            self._token.run_sync_soon(wake)

        future.add_done_callback(on_done)

        def abort(_: object) -> trio.lowlevel.Abort:
            # The asyncio side ends soon, and then `wake` runs: with CancelledError, which becomes Trio's below.
            future.cancel()
            return trio.lowlevel.Abort.FAILED

        try:
            return await trio.lowlevel.wait_task_rescheduled(abort)
        except concurrent.futures.CancelledError:
            await trio.lowlevel.checkpoint_if_cancelled()  # by us: that is Trio's Cancelled
            raise trio.BrokenResourceError("the server cancelled the connection") from None


class BridgedSend:
    """An ASGI ``send`` for the Trio side. It can abort the connection where the server exposes its transport."""

    def __init__(self, caller: _Caller, send: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._caller = caller
        self._send = send
        self._loop = loop

    async def __call__(self, message: Any) -> None:
        await self._caller.call(self._send, message)

    @property
    def _transport(self) -> Any | None:
        return getattr(getattr(self._send, "__self__", None), "transport", None)

    @property
    def socket(self) -> Any | None:
        """The connection's socket, which the server owns; None where the server hides it."""
        transport = self._transport
        return None if transport is None else transport.get_extra_info("socket")

    def abort_connection(self) -> None:
        """Close the client's connection at once. Does nothing where the server hides its transport."""
        transport = self._transport
        if transport is None:
            return
        sock = self.socket
        if sock is not None:
            reset_on_close(sock)
        self._loop.call_soon_threadsafe(transport.abort)


class AsyncioBridge:
    """An ASGI app for asyncio servers around a Trio one."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._stop: trio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """asyncio: one ASGI call of the server."""
        if scope["type"] != "lifespan":
            if self._token is None:
                raise RuntimeError("Relay needs the ASGI lifespan; do not switch it off in the server")
            await self._run(scope, receive, send)
            return
        started = threading.Event()
        thread = threading.Thread(target=trio.run, args=(self._main, started), name="relay", daemon=True)
        thread.start()
        if not await asyncio.to_thread(started.wait, _START_TIMEOUT):
            raise RuntimeError("the Trio thread did not start")
        try:
            await self._run(scope, receive, send)
        finally:
            token, self._token = self._token, None
            assert token is not None
            assert self._stop is not None
            token.run_sync_soon(self._stop.set)
            await asyncio.to_thread(thread.join)

    async def _main(self, started: threading.Event) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._stop = trio.Event()
            self._token = trio.lowlevel.current_trio_token()
            started.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    async def _run(self, scope: Any, receive: Any, send: Any) -> None:
        """asyncio: run the app for one call as a task of the Trio thread, and wait for its end."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        token = self._token
        assert token is not None
        cancel_scope = trio.CancelScope()

        def report(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(error)

        async def call() -> None:
            caller = _Caller(loop, token)

            async def bridged_receive() -> Any:
                return await caller.call(receive)

            error: BaseException | None = RuntimeError("the relay's thread is shutting down")
            try:
                with cancel_scope:
                    await self._app(scope, bridged_receive, BridgedSend(caller, send, loop))
                error = None
            except Exception as failure:  # noqa: BLE001 - it is raised again on the other side
                error = failure
            finally:
                loop.call_soon_threadsafe(report, error)

        def start() -> None:
            if self._nursery is None:
                loop.call_soon_threadsafe(report, RuntimeError("the relay's thread has ended"))
            else:
                self._nursery.start_soon(call)

        token.run_sync_soon(start)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            token.run_sync_soon(cancel_scope.cancel)
            await asyncio.wait([done])
            # Hypercorn cancels the lifespan when that has said that it is complete, and takes the cancellation for a failure.
            if scope["type"] != "lifespan" or cancel_scope.cancelled_caught or done.exception() is not None:
                raise


def _keep_own_event_loop_policy() -> None:
    """Let asyncio servers of this thread make the event loops that they would make without us.

    Importing trio-asyncio replaces the policy, so that a loop made outside of Trio is one that runs Trio within: the server
    would be asyncio's, and everything in it would seem to be a task of Trio's.
    """
    if not trio.lowlevel.in_trio_task():
        # What this returns is the policy from before; setting it makes it hold in this thread.
        asyncio.set_event_loop_policy(asyncio.get_event_loop_policy())


class AsgiDispatcher:
    """The app for any ASGI server: used directly on Trio, bridged on asyncio."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app
        _keep_own_event_loop_policy()
        self._bridge = AsyncioBridge(app)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if trio.lowlevel.in_trio_task():
            await self.app(scope, receive, send)
        else:
            await self._bridge(scope, receive, send)
