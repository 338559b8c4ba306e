"""What Relay replaces in Hypercorn and reads of it, in the installed version. `tox -e hypercorn-oldest` has the other one."""

import multiprocessing
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import metadata
from typing import Any, NoReturn

import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.trio.run
import pytest
import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.utils import ShutdownError, check_multiprocess_shutdown_event

from relay.server import hypercorn_compat
from relay.server.bridge import AsgiDispatcher
from relay.server.hypercorn_compat import install, versions
from relay.server.hypercorn_compat.chain import HypercornChain, inspect
from relay.server.hypercorn_compat.listeners import ListenerServer, WorkerListeners, serving_listeners_of
from relay.server.hypercorn_compat.shutdown import raise_shutdown
from relay.ticks import TICK

App = Callable[[Any, Any, Any], Awaitable[None]]


def test_the_installed_version_is_in_the_table() -> None:
    minor = metadata.version("hypercorn").rpartition(".")[0]
    assert minor in versions.VERIFIED_VERSIONS
    assert versions.VERIFIED_VERSIONS[minor].startswith(metadata.version("hypercorn"))


def test_importing_replaces_nothing() -> None:
    program = (
        "import hypercorn.trio.run, hypercorn.protocol.h11 as h11, trio\n"
        "before = h11.WSStream\n"
        "import relay.server.app, relay.server.serve, relay.server.hypercorn_compat as compat\n"
        "assert (hypercorn.trio.run.trio, h11.WSStream) == (trio, before)\n"
        "assert compat.install() and compat.install()\n"
        "assert hypercorn.trio.run.trio is not trio and issubclass(h11.WSStream, before)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_an_unverified_version_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        hypercorn.trio.run: ["trio", "raise_shutdown"],
        hypercorn.protocol.h11: ["WSStream"],
        hypercorn.protocol.h2: ["WSStream"],
        hypercorn.protocol: ["H11Protocol", "H2Protocol"],
    }
    places = [(module, name) for module, of_module in names.items() for name in of_module]
    for module, name in places:
        monkeypatch.setattr(module, name, "untouched")
    monkeypatch.setattr(hypercorn_compat, "is_verified", lambda: False)
    assert not install()
    assert [vars(module)[name] for module, name in places] == ["untouched"] * len(places)


class Worker:
    """A Hypercorn worker in this process, on a port of its own."""

    def __init__(self, nursery: trio.Nursery, app: Any) -> None:
        self.nursery = nursery
        self.app = app
        self.stop = trio.Event()
        self.port = 0

    async def __aenter__(self) -> "Worker":
        install()
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        config = Config()
        config.bind = [f"fd://{listening.detach()}"]
        config.errorlog = None
        config.graceful_timeout = 0.1
        serve = hypercorn.trio.run.worker_serve
        await self.nursery.start(self._serve, serve, config)
        return self

    async def _serve(self, serve: Any, config: Config, *, task_status: trio.TaskStatus[Any]) -> None:
        wrapped: Any = ASGIWrapper(self.app)
        await serve(wrapped, config, shutdown_trigger=self.stop.wait, task_status=task_status)

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()

    async def request(self) -> bytes:
        with trio.fail_after(20):
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
                return b"".join([chunk async for chunk in stream])


def app_that(on_request: Callable[[Any], None]) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        on_request(send)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


async def test_each_link_of_the_chain_is_the_one_of_the_table(nursery: trio.Nursery) -> None:
    chains: list[HypercornChain] = []
    async with Worker(nursery, app_that(lambda send: chains.append(inspect(send)))) as worker:
        assert (await worker.request()).endswith(b"ok")
    (chain,) = chains
    assert chain.is_plain_http1
    assert chain.is_response
    assert not chain.is_websocket
    assert isinstance(chain.asgi_stream, HTTPStream)
    assert isinstance(chain.protocol, H11Protocol)
    assert isinstance(chain.tcp_server, TCPServer)
    assert isinstance(chain.socket, trio.socket.SocketType)
    with trio.fail_after(20):
        assert chain.terminated is not None
        await chain.terminated.wait()


@pytest.mark.parametrize("wrap", [lambda app: app, AsgiDispatcher], ids=["the app", "the app of relay.asgi"])
async def test_the_listeners_of_a_registered_app_are_served_by_relay(
    nursery: trio.Nursery, wrap: Callable[[App], App]
) -> None:
    app = app_that(lambda send: None)
    asked: list[WorkerListeners] = []

    async def serve(worker: WorkerListeners) -> NoReturn:
        asked.append(worker)
        await trio.serve_listeners(worker.handler, worker.listeners, handler_nursery=worker.handler_nursery)

    async with Worker(nursery, wrap(app)) as unregistered:
        assert (await unregistered.request()).endswith(b"ok")
    assert asked == []
    with serving_listeners_of(app, ListenerServer(serve, 1000, 10.0, False)):
        async with Worker(nursery, wrap(app)) as registered:
            assert (await registered.request()).endswith(b"ok")
    (worker,) = asked
    assert [type(listener) for listener in worker.listeners] == [trio.SocketListener]
    assert worker.keep_alive_timeout == Config().keep_alive_timeout
    assert not worker.has_own_rules
    with trio.fail_after(20):
        await worker.terminated.wait()


async def test_a_worker_sees_at_the_next_tick_that_it_is_to_end(autojump_clock: trio.testing.MockClock) -> None:
    event = multiprocessing.get_context("spawn").Event()

    async def end() -> None:
        await trio.sleep(3.1)
        event.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        with pytest.raises(ShutdownError):
            await raise_shutdown(partial(check_multiprocess_shutdown_event, event, trio.sleep))
    assert 3.1 <= trio.current_time() <= 3.1 + TICK


async def test_a_trigger_of_a_server_in_this_process_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ShutdownError):
        await raise_shutdown(partial(trio.sleep, 0.1))
    assert trio.current_time() == pytest.approx(0.1)
