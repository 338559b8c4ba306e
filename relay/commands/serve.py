"""`relay serve`: settings, logs and the banner around `relay.server.serve`."""

import socket
import sys
from functools import partial

import trio
import typer

from relay import __version__, logs
from relay.broker.embedded import DEFAULT_PORT
from relay.config import RedisSettings, Settings, load
from relay.profile import require_safe
from relay.server.admin_listener import listen_for_operators
from relay.server.serve import listen, serve
from relay.server.workers import supervise
from relay.worker_metrics import identify_worker


def _banner(settings: Settings, redis_settings: RedisSettings, bind: str, redis_url: str) -> None:
    embedded = redis_settings.configured_url() is None
    publish = (
        f"{sys.argv[0]} publish task demo status=in_progress progress=40 message=Rendering"
        f"{f' --redis-url {redis_url}' if embedded and not redis_url.endswith(f':{DEFAULT_PORT}/0') else ''}"
    )
    lines = [
        "",
        f"  Relay {__version__} is up.",
        f"    listens on  {bind}    (WebSocket: {bind.replace('http', 'ws', 1)}/ws/tasks)",
        *([f"    page        {bind}/"] if settings.page else []),
        f"    Redis       {logs.without_password(redis_url)}{'  (embedded)' if embedded else ''}",
        *([f"    operators   http://{settings.admin_bind}/status"] if settings.admin_bind else []),
        *([] if settings.needs_grants else ["    access      open: everyone who reaches this address sees every task"]),
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
    admin_fd: int | None,
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
        admin_fd: The operators' listening socket, for a worker.
    """
    settings, redis_settings = load(host=host, port=port, workers=workers, redis_url=redis_url)
    require_safe(settings, redis_settings)
    logs.configure(settings.log_level)
    if fd is not None:  # a worker: the supervisor has the socket and passes its descriptor
        identify_worker(worker)
        admin_socket = None if admin_fd is None else socket.socket(fileno=admin_fd)
        sock = socket.socket(fileno=fd)
        trio.run(serve, settings, redis_settings, sock, lambda _bind, _redis: None, liveness_fd, admin_socket)
        return
    on_up = partial(_banner, settings, redis_settings)
    sock = listen(settings)
    admin_socket = None if settings.admin_bind is None else listen_for_operators(settings.admin_bind)
    if settings.workers == 1:
        trio.run(serve, settings, redis_settings, sock, on_up, None, admin_socket)
    else:
        trio.run(supervise, settings, redis_settings, sock, on_up, admin_socket)
