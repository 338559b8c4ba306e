"""`relay serve`: Hypercorn in this process, or a supervisor with several worker processes behind one port."""

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from relay.broker.backoff import backoff
from relay.broker.embedded import embedded_redis
from relay.config import RedisSettings, Settings
from relay.core.errors import ConfigError
from relay.processes import start_child, stop_child, wait_for_exit
from relay.server.app import create_app
from relay.server.bridge import AsgiApp

_log = structlog.get_logger("relay.serve")

#: Connections that the kernel holds for us while the loop is busy: a thousand clients may come back at once.
BACKLOG = 4096

#: Called once the relay is up, with the address that it listens on and the URL of its Redis.
OnUp = Callable[[str, str], None]


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket.

    Raises:
        ConfigError: The address is not available.
    """
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}. Set RELAY_HOST and RELAY_PORT."
        ) from None


def _hypercorn_config(settings: Settings, descriptor: int) -> Config:
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.backlog = BACKLOG
    config.errorlog = logging.getLogger("hypercorn.error")
    config.loglevel = "WARNING"
    config.websocket_max_message_size = settings.max_message_bytes
    # Sessions on hijacked sockets drain in the lifespan; this is for requests and for sessions on plain ASGI.
    config.graceful_timeout = min(3.0, settings.graceful_timeout / 4)
    config.shutdown_timeout = settings.graceful_timeout
    config.include_server_header = False
    return config


async def _wait_for_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            return


async def serve(settings: Settings, redis_settings: RedisSettings, sock: socket.socket, on_up: OnUp) -> None:
    """Serve on a listening socket until SIGTERM or SIGINT, and end within `graceful_timeout` seconds after it.

    What is still running then is cancelled, and logged. The process exits with 1 when the relay fails.

    Args:
        settings: All but where Redis is.
        redis_settings: Where Redis is.
        sock: The listening socket, which Hypercorn owns from now on.
        on_up: See `OnUp`.
    """
    app = create_app(settings, redis_settings)
    config = _hypercorn_config(settings, sock.detach())
    overdue = trio.CancelScope()

    async def shutdown_trigger() -> None:
        await _wait_for_signal()
        overdue.deadline = trio.current_time() + settings.graceful_timeout

    asgi: AsgiApp = app
    with overdue:
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(
                partial(hypercorn_serve, asgi, config, shutdown_trigger=shutdown_trigger, mode="asgi")
            )
            on_up(binds[0], app.relay.running.redis_url)
    if overdue.cancelled_caught:
        _log.error("shutdown took longer than RELAY_GRACEFUL_TIMEOUT", seconds=settings.graceful_timeout)
    if app.has_failed:
        sys.exit(1)


async def supervise(settings: Settings, redis_settings: RedisSettings, sock: socket.socket, on_up: OnUp) -> None:
    """Run `settings.workers` worker processes on one listening socket until SIGTERM or SIGINT.

    A worker that dies is started again, with backoff. The workers share one embedded Redis when none is configured.

    Args:
        settings: All but where Redis is.
        redis_settings: Where Redis is.
        sock: The listening socket.
        on_up: See `OnUp`.
    """
    async with AsyncExitStack() as stack:
        url = redis_settings.configured_url()
        if url is None:
            url = await stack.enter_async_context(embedded_redis())
        directory = await stack.enter_async_context(_metrics_directory())
        environ = {**os.environ, "REDIS_URL": url, "PROMETHEUS_MULTIPROC_DIR": directory}
        async with trio.open_nursery() as nursery:
            for number in range(settings.workers):
                nursery.start_soon(_keep_worker, number, sock, environ, settings)
            host, port = sock.getsockname()[:2]
            on_up(f"http://{host}:{port}", url)
            await _wait_for_signal()
            nursery.cancel_scope.cancel()


async def _keep_worker(number: int, sock: socket.socket, environ: dict[str, str], settings: Settings) -> None:
    attempt = 0
    while True:
        started = trio.current_time()
        arguments = [sys.executable, "-m", "relay.cli", "serve", "--fd", str(sock.fileno())]
        worker = start_child(arguments, env=environ, pass_fds=[sock.fileno()])
        try:
            status = await wait_for_exit(worker)
        finally:
            # When we are cancelled, by a signal, all workers drain side by side.
            await stop_child(worker, settings.graceful_timeout + 2.0)
        attempt = 0 if trio.current_time() - started > 10 else attempt + 1
        _log.error("worker ended, starting it again", worker=number, status=status)
        await trio.sleep(backoff(attempt))


@asynccontextmanager
async def _metrics_directory() -> AsyncIterator[str]:
    """A directory where the workers put their counts, so that each can show the sums."""
    directory = tempfile.mkdtemp(prefix="relay-metrics-")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
