"""A TCP proxy whose connections can be cut and stalled."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import trio

#: Receive buffer in bytes. It is small: a proxy that buffers much would hide a slow client from the relay.
_RECEIVE_BUFFER = 8192


class Proxy:
    """Forwards connections to a port of 127.0.0.1. Start `run` in a nursery; it sets `port` before it reports its start."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._connections: set[trio.CancelScope] = set()
        self._flowing = trio.Event()
        self._flowing.set()
        self._is_down = False
        self.port = 0
        self.passed = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        await trio.serve_listeners(self._serve, [listener], task_status=task_status)  # type: ignore[arg-type]

    async def _serve(self, near: trio.SocketStream) -> None:
        if self._is_down:
            await trio.aclose_forcefully(near)
            return
        far = trio.socket.socket()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        with trio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                await far.connect(("127.0.0.1", self._target))
                stream = trio.SocketStream(far)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, stream, nursery)
                    nursery.start_soon(self._pump, stream, near, nursery)
            except OSError:
                pass  # the target does not listen now
            finally:
                self._connections.discard(scope)
                far.close()
                await trio.aclose_forcefully(near)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, nursery: trio.Nursery) -> None:
        try:
            while True:
                await self._flowing.wait()
                data = await source.receive_some(65536)
                await self._flowing.wait()
                if not data:
                    break
                await sink.send_all(data)
                self.passed += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        nursery.cancel_scope.cancel()  # if one side closes, so does the other

    async def cut(self, seconds: float) -> None:
        """Close all connections, and refuse new ones for this many seconds."""
        self._is_down = True
        for scope in self._connections:
            scope.cancel()
        await trio.sleep(seconds)
        self._is_down = False

    async def stall(self, seconds: float) -> None:
        """Forward nothing for this many seconds, and then everything that has arrived."""
        self._flowing = trio.Event()
        await trio.sleep(seconds)
        self._flowing.set()


class ProxyThread:
    """A proxy on an event loop in a thread of its own."""

    def __init__(self, target: int) -> None:
        self.proxy = Proxy(target)
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop = trio.Event()

    async def _main(self, started: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.proxy.run)
            started.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def cut(self, seconds: float) -> None:
        trio.from_thread.run(self.proxy.cut, seconds, trio_token=self._token)

    def stall(self, seconds: float) -> None:
        trio.from_thread.run(self.proxy.stall, seconds, trio_token=self._token)

    @contextmanager
    def running(self) -> Iterator[None]:
        started = threading.Event()
        thread = threading.Thread(target=trio.run, args=(self._main, started))
        thread.start()
        started.wait()
        try:
            yield
        finally:
            trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
            thread.join()
