"""Several worker processes behind one port: a supervisor that replaces those that end or no longer respond."""

import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import structlog
import trio

from relay.broker.backoff import backoff
from relay.broker.embedded import embedded_redis
from relay.config import RedisSettings, Settings
from relay.processes import Child, reap_orphans, start_child, stop_child, temporary_directory, wait_for_exit
from relay.server.shutdown import Shutdown
from relay.ticks import sleep_until_tick
from relay.worker_metrics import forget_worker

_log = structlog.get_logger("relay.workers")

#: Seconds between two bytes by which a worker shows that its event loop turns.
_ALIVE_SECONDS = 1.0

#: Seconds that a worker has for its first byte.
_START_SECONDS = 60.0

#: Seconds that a worker must have run for its end not to count as another failed start.
_STABLE_SECONDS = 10.0

#: Seconds before the end of the promised time at which a worker that is still there is killed.
_KILL_MARGIN = 0.3


async def send_liveness(descriptor: int) -> None:
    """Show the supervisor that the event loop turns, until cancelled.

    Args:
        descriptor: The end of the worker's pipe that it writes to.
    """
    os.set_blocking(descriptor, False)
    while True:
        with suppress(BlockingIOError, BrokenPipeError):  # nobody has read the last ones; the kernel ends us with it
            os.write(descriptor, b".")
        await sleep_until_tick(_ALIVE_SECONDS)


async def supervise(
    settings: Settings,
    redis_settings: RedisSettings,
    sock: socket.socket,
    on_up: Callable[[str, str], None],
    admin_socket: socket.socket | None = None,
) -> None:
    """Run `settings.workers` worker processes on one listening socket until SIGTERM, SIGINT or SIGHUP.

    A worker that ends, or whose event loop does not turn, is replaced. The workers share one embedded Redis when none is
    configured. A second signal kills the workers at once.

    Args:
        settings: All but where Redis is.
        redis_settings: Where Redis is.
        sock: The listening socket.
        on_up: Called when the workers are started, with the address and the URL of Redis.
        admin_socket: The operators' listening socket, which the workers share; None if there is none.

    Raises:
        ConfigError: There is no temporary directory for the workers' metrics.
    """
    shutdown = Shutdown(settings.graceful_timeout)
    async with trio.open_nursery() as nursery:
        await nursery.start(shutdown.watch)
        if os.getpid() == 1:
            nursery.start_soon(reap_orphans)
        with temporary_directory("relay-metrics-") as directory, trio.CancelScope() as starting:
            workers = _Workers(sock, admin_socket, settings, directory, shutdown)
            nursery.start_soon(workers.kill_when_forced)
            scopes = [starting]
            nursery.start_soon(_cancel_innermost, shutdown.requested, scopes)
            async with _redis_of(redis_settings) as url:
                # From here on only the workers are cancelled: Redis is needed until they have drained.
                with trio.CancelScope() as running:
                    scopes.append(running)
                    host, port = sock.getsockname()[:2]
                    await workers.run(url, partial(on_up, f"http://{host}:{port}", url))
        nursery.cancel_scope.cancel()


async def _cancel_innermost(event: trio.Event, scopes: Sequence[trio.CancelScope]) -> None:
    await event.wait()
    scopes[-1].cancel()


@asynccontextmanager
async def _redis_of(redis_settings: RedisSettings) -> AsyncIterator[str]:
    """The URL of the workers' Redis; an embedded one runs for the time of the block where none is configured."""
    url = redis_settings.configured_url()
    if url is not None:
        yield url
        return
    async with embedded_redis() as url:
        yield url


def worker_shares(settings: Settings) -> dict[str, str]:
    """Return the settings of one worker where they are not those of all: its part of the time, and of the connects.

    A worker drains in less time than the supervisor has, and in more than a closing handshake takes.
    """
    promised, close = settings.graceful_timeout, settings.close_timeout
    own = settings.model_copy(update={"graceful_timeout": max(promised - 1.0, (promised + close) / 2)})
    return {
        "RELAY_GRACEFUL_TIMEOUT": repr(own.graceful_timeout),
        "RELAY_DRAIN_SECONDS": repr(own.drain_window),
        # Whole ones: a fraction of each could be a connect too many of all.
        "RELAY_CONNECT_RATE": str(int(settings.connect_rate / settings.workers)),
        "RELAY_WORKERS": "1",
    }


class _Workers:
    """The workers of one supervisor."""

    def __init__(
        self,
        sock: socket.socket,
        admin_socket: socket.socket | None,
        settings: Settings,
        directory: Path,
        shutdown: Shutdown,
    ) -> None:
        self._sock = sock
        self._admin_socket = admin_socket
        self._settings = settings
        self._directory = directory
        self._shutdown = shutdown
        self._running: set[Child] = set()

    async def run(self, redis_url: str, on_up: Callable[[], None]) -> None:
        """Run all workers. Cancelling stops them side by side, within the promised time."""
        environ = {
            **os.environ,
            "REDIS_URL": redis_url,
            "PROMETHEUS_MULTIPROC_DIR": str(self._directory),
            **worker_shares(self._settings),
        }
        async with trio.open_nursery() as nursery:
            for number in range(self._settings.workers):
                nursery.start_soon(self._keep, number, environ)
            on_up()

    async def _keep(self, number: int, environ: dict[str, str]) -> None:
        """Keep one worker running until cancelled."""
        attempt = 0
        while True:
            started = trio.current_time()
            ours, theirs = os.pipe()
            passed = [self._sock.fileno(), theirs]
            options = ["--fd", str(passed[0]), "--liveness-fd", str(theirs), "--worker", str(number)]
            if self._admin_socket is not None:
                passed.append(self._admin_socket.fileno())
                options += ["--admin-fd", str(passed[-1])]
            worker = start_child([sys.executable, "-m", "relay.cli", "serve", *options], env=environ, pass_fds=passed)
            os.close(theirs)
            self._running.add(worker)
            try:
                status = await self._watch(number, worker, ours)
            finally:
                await self._stop(worker)
                # What it had connected, and whether it had Redis, is so no longer.
                forget_worker(number, self._directory)
            attempt = 0 if trio.current_time() - started > _STABLE_SECONDS else attempt + 1
            delay = backoff(attempt)
            _log.error("worker ended, starting it again", worker=number, status=status, retry_in=round(delay, 3))
            await trio.sleep(delay)

    async def _watch(self, number: int, worker: Child, descriptor: int) -> int:
        """Wait until a worker ends, and kill it when it no longer responds; returns its exit status."""
        limit = _START_SECONDS
        async with trio.lowlevel.FdStream(descriptor) as stream:
            while True:
                with trio.move_on_after(limit) as scope:
                    if not await stream.receive_some(64):
                        break
                if scope.cancelled_caught:
                    _log.error("worker does not respond, killing it", worker=number, pid=worker.pid, silent_for=limit)
                    worker.kill()
                    break
                limit = self._settings.worker_timeout
        return await wait_for_exit(worker)

    async def _stop(self, worker: Child) -> None:
        """Stop a worker within what is left of the promised time."""
        grace = min(self._shutdown.seconds_left, self._settings.graceful_timeout) - _KILL_MARGIN
        await stop_child(worker, max(0.0, grace))
        self._running.discard(worker)

    async def kill_when_forced(self) -> None:
        """Kill all workers when a second signal comes; runs until then, or until cancelled."""
        await self._shutdown.forced.wait()
        for worker in self._running:
            if worker.poll() is None:
                worker.kill()
