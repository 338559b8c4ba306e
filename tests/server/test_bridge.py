"""The bridge to asyncio servers: calls, errors and cancellation go across, and nothing stays behind."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from relay.server.bridge import AsgiDispatcher, AsyncioBridge

App = Callable[[Any, Any, Any], Awaitable[None]]


class Server:
    """What an asyncio server does: a lifespan around its calls."""

    def __init__(self, app: App) -> None:
        self.bridge = AsyncioBridge(app)
        self._to_app: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self._lifespan: asyncio.Task[None] | None = None

    async def _send(self, message: Any) -> None:
        await self.sent.put(message)

    async def __aenter__(self) -> "Server":
        self._lifespan = asyncio.create_task(self.bridge({"type": "lifespan"}, self._to_app.get, self._send))
        await self._to_app.put({"type": "lifespan.startup"})
        assert await self.sent.get() == {"type": "lifespan.startup.complete"}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._to_app.put({"type": "lifespan.shutdown"})
        assert self._lifespan is not None
        await self._lifespan
        assert not [thread for thread in threading.enumerate() if thread.name == "relay"]

    def call(self, receive: Any = None, send: Any = None) -> asyncio.Task[None]:
        async def never() -> None:
            await asyncio.Event().wait()

        return asyncio.create_task(self.bridge({"type": "websocket"}, receive or never, send or self._send))


def with_lifespan(app: App) -> App:
    async def whole(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        assert await receive() == {"type": "lifespan.startup"}
        await send({"type": "lifespan.startup.complete"})
        assert await receive() == {"type": "lifespan.shutdown"}

    return whole


def run(app: App, script: Callable[[Server], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), Server(with_lifespan(app)) as server:
            await script(server)
        assert len(asyncio.all_tasks()) == 1  # this one

    asyncio.run(main())


def test_messages_go_both_ways_in_order_and_in_the_right_loops() -> None:
    loops: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            loops.append(trio.lowlevel.in_trio_run())
            await send(("echo", await receive()))

    async def script(server: Server) -> None:
        numbers = iter(range(3))

        async def receive() -> int:
            asyncio.get_running_loop()
            await asyncio.sleep(0)
            return next(numbers)

        await server.call(receive)
        assert [server.sent.get_nowait() for _ in range(3)] == [("echo", 0), ("echo", 1), ("echo", 2)]

    run(app, script)
    assert loops == [True] * 3


def test_errors_go_across_to_the_caller() -> None:
    caught: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        except ZeroDivisionError as error:
            caught.append(str(error))
        raise KeyError("from the app")

    async def script(server: Server) -> None:
        async def receive() -> None:
            raise ZeroDivisionError("from the server")

        with pytest.raises(KeyError, match="from the app"):
            await server.call(receive)
        with pytest.raises(KeyError):  # and the bridge lives on
            await server.call(receive)

    run(app, script)
    assert caught == ["from the server"] * 2


def test_a_call_cancelled_by_the_server_cancels_the_app_and_waits_for_it() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        except trio.Cancelled:
            seen.append("cancelled")
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                await send("goodbye")
            seen.append("cleaned up")

    async def script(server: Server) -> None:
        waiting = asyncio.Event()

        async def receive() -> None:
            waiting.set()
            await asyncio.Event().wait()

        call = server.call(receive)
        await waiting.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert seen == ["cancelled", "cleaned up"]
        assert server.sent.get_nowait() == "goodbye"

    run(app, script)


@pytest.mark.parametrize("turns", range(12))
def test_cancelled_at_any_turn_nothing_stays_behind(turns: int) -> None:
    """The server cancels after so many turns of its loop; the app is in the midst of its calls, or not even begun."""
    inside: list[int] = [0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inside[0] += 1
        try:
            for _ in range(3):
                await receive()
                await send("x")
        finally:
            inside[0] -= 1

    async def script(server: Server) -> None:
        async def receive() -> None:
            await asyncio.sleep(0)

        async def send(message: Any) -> None:
            await asyncio.sleep(0)

        call = server.call(receive, send)
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert inside == [0]
        await server.call(receive, send)  # the next one is not harmed

    run(app, script)
    assert inside == [0]


def test_the_servers_own_cancellation_of_a_send_is_a_broken_connection() -> None:
    seen: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send("x")
        except Exception as error:  # noqa: BLE001 - looked at below
            seen.append(error)

    async def script(server: Server) -> None:
        async def send(message: Any) -> None:
            raise asyncio.CancelledError

        await server.call(send=send)

    run(app, script)
    assert [type(error) for error in seen] == [trio.BrokenResourceError]


def test_shutting_down_ends_the_calls_that_are_left() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send("here")
            await receive()
        finally:
            ended.append("ended")

    calls: list[asyncio.Task[None]] = []

    async def script(server: Server) -> None:
        calls.append(server.call())
        assert await server.sent.get() == "here"

    async def main() -> None:
        async with asyncio.timeout(20):
            async with Server(with_lifespan(app)) as server:
                await script(server)
            with pytest.raises(RuntimeError, match="shutting down"):
                await calls[0]
            with pytest.raises(RuntimeError, match="lifespan"):  # and no more come in
                await server.call()

    asyncio.run(main())
    assert ended == ["ended"]


def test_without_the_lifespan_it_says_what_is_wrong() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    async def main() -> None:
        with pytest.raises(RuntimeError, match="lifespan; do not switch it off"):
            await AsyncioBridge(app)({"type": "websocket"}, None, None)

    asyncio.run(main())


def test_a_lifespan_that_fails_is_reported_and_its_thread_ends() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await AsyncioBridge(app)({"type": "lifespan"}, None, None)
        assert not [thread for thread in threading.enumerate() if thread.name == "relay"]

    asyncio.run(main())


async def test_on_trio_the_app_is_called_as_it_is() -> None:
    calls: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append((scope, receive, send))

    await AsgiDispatcher(app)("scope", "receive", "send")
    assert calls == [("scope", "receive", "send")]


class FakeTransport:
    """An asyncio transport, for what aborting asks of it."""

    def __init__(self) -> None:
        self.aborted = threading.Event()

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        asyncio.get_running_loop()  # only there may it be called
        self.aborted.set()


@pytest.mark.parametrize("hidden", [False, True])
def test_the_connection_can_be_aborted_where_the_server_shows_its_transport(hidden: bool) -> None:
    class Connection:
        def __init__(self) -> None:
            if not hidden:
                self.transport = FakeTransport()

        async def send(self, message: Any) -> None: ...

    async def app(scope: Any, receive: Any, send: Any) -> None:
        send.abort_connection()

    async def script(server: Server) -> None:
        connection = Connection()
        await server.call(send=connection.send)
        if not hidden:
            assert await asyncio.to_thread(connection.transport.aborted.wait, 10)

    run(app, script)
