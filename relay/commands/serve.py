"""`relay serve`: settings, logs and the banner around `relay.server.serve`."""

import socket
import sys
from functools import partial

import trio
import typer

from relay import __version__, logs
from relay.broker.embedded import DEFAULT_PORT
from relay.config import RedisSettings, Settings, load
from relay.metrics import identify_worker
from relay.server.serve import listen, serve
from relay.server.workers import supervise


def _banner(settings: Settings, redis_settings: RedisSettings, bind: str, redis_url: str) -> None:
    embedded = redis_settings.configured_url() is None
    publish = (
        f"{sys.argv[0]} publish task demo progress=40 message=Rendering"
        f"{f' --redis-url {redis_url}' if embedded and not redis_url.endswith(f':{DEFAULT_PORT}/0') else ''}"
    )
    lines = [
        "",
        f"  Relay {__version__} is up.",
        f"    listens on  {bind}    (WebSocket: {bind.replace('http', 'ws', 1)}/ws/tasks)",
        *([f"    page        {bind}/"] if settings.page else []),
        f"    Redis       {logs.without_password(redis_url)}{'  (embedded)' if embedded else ''}",
        f"    transport   {'sockets hijacked after the handshake' if settings.hijack_sockets else 'plain ASGI'}",
        "",
        "  Watch a task in a second terminal:",
        f"    {sys.argv[0]} tail --task demo --url {bind.replace('http', 'ws', 1)}/ws/tasks",
        "  and publish to it from a third:",
        f"    {publish}",
        "",
    ]
    typer.echo("\n".join(lines))


def run(
    host: str | None,
    port: int | None,
    workers: int | None,
    redis_url: str | None,
    fd: int | None,
    liveness_fd: int | None,
    worker: int,
) -> None:
    """Run the relay until a signal stops it.

    Args:
        host: The address to listen on. This and the next three win over the environment.
        port: The port to listen on.
        workers: Processes behind the port.
        redis_url: The Redis to use.
        fd: The listening socket, for a worker of a supervisor.
        liveness_fd: Where a worker shows its supervisor that its event loop turns.
        worker: The worker's number.
    """
    settings, redis_settings = load(host=host, port=port, workers=workers, redis_url=redis_url)
    logs.configure(settings.log_level)
    if fd is not None:  # a worker: the supervisor has the socket and passes its descriptor
        identify_worker(worker)
        trio.run(serve, settings, redis_settings, socket.socket(fileno=fd), lambda _bind, _redis: None, liveness_fd)
        return
    command = serve if settings.workers == 1 else supervise
    trio.run(command, settings, redis_settings, listen(settings), partial(_banner, settings, redis_settings))
