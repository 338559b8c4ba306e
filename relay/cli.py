"""The command `relay`."""

import json
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

import trio
import typer
from relay_client.tail.command import run_tail
from relay_client.tail.errors import TailError

from relay import __version__, logs
from relay.broker.embedded import DEFAULT_PORT
from relay.broker.service import RedisService, open_redis
from relay.config import RedisSettings, Settings, load
from relay.core.errors import RelayError
from relay.core.updates import Position
from relay.metrics import identify_worker
from relay.server.serve import listen, serve
from relay.server.workers import supervise

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Live task updates from Redis to browsers.")
publish_app = typer.Typer(no_args_is_help=True, help="Publish an update, as a service would.")
app.add_typer(publish_app, name="publish")

RedisUrl = Annotated[str | None, typer.Option("--redis-url", help="Redis to use; default: REDIS_URL, REDIS_HOST, ...")]


def _banner(settings: Settings, redis_settings: RedisSettings, bind: str, redis_url: str) -> None:
    embedded = redis_settings.configured_url() is None
    one = (
        f"{sys.argv[0]} publish task demo progress=40 message=Rendering"
        f"{f' --redis-url {redis_url}' if embedded and not redis_url.endswith(f':{DEFAULT_PORT}/0') else ''}"
    )
    lines = [
        "",
        f"  Relay {__version__} is up.",
        f"    listens on  {bind}    (WebSocket: {bind.replace('http', 'ws', 1)}/ws/tasks)",
        f"    Redis       {logs.without_password(redis_url)}{'  (embedded)' if embedded else ''}",
        f"    transport   {'sockets hijacked after the handshake' if settings.hijack_sockets else 'plain ASGI'}",
        "",
        "  Watch a task in a second terminal:",
        f"    {sys.argv[0]} tail --task demo --url {bind.replace('http', 'ws', 1)}/ws/tasks",
        "  and publish to it from a third:",
        f"    {one}",
        "",
    ]
    typer.echo("\n".join(lines))


@app.command("serve")
def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: RELAY_HOST or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: RELAY_PORT or 8000.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes behind the port; default: RELAY_WORKERS or 1.")] = None,
    redis_url: RedisUrl = None,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    alive_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    worker: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Run the relay until SIGTERM or Ctrl-C. With no Redis configured it starts an embedded one."""
    settings, redis_settings = load(host=host, port=port, workers=workers, redis_url=redis_url)
    logs.configure(settings.log_level)
    if fd is not None:  # a worker: the supervisor has the socket and passes its descriptor
        identify_worker(worker)
        trio.run(serve, settings, redis_settings, socket.socket(fileno=fd), lambda _bind, _redis: None, alive_fd)
        return
    run = serve if settings.workers == 1 else supervise
    on_up = partial(_banner, settings, redis_settings)
    trio.run(run, settings, redis_settings, listen(settings), on_up)


def _fields(pairs: list[str]) -> dict[str, Any]:
    """``key=value`` pairs; values are JSON where they can be read as such, text otherwise."""
    fields: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{pair!r} is not of the form key=value")
        try:
            fields[key] = json.loads(value)
        except ValueError:
            fields[key] = value
    if not fields:
        raise typer.BadParameter("give at least one field as key=value, for instance progress=40")
    return fields


def _publish(redis_url: str | None, publish: Callable[[RedisService], Awaitable[Position | None]]) -> None:
    settings, redis_settings = load(redis_url=redis_url)
    logs.configure("CRITICAL")
    url = redis_settings.configured_url() or f"redis://127.0.0.1:{DEFAULT_PORT}/0"

    async def run() -> Position | None:
        async with open_redis(url, settings, redis_settings) as redis:
            return await publish(redis)

    position = trio.run(run)
    shown = logs.without_password(url)
    if position is None:
        typer.echo(f"published on {shown}, but Redis is out of memory and does not keep it", err=True)
        raise typer.Exit(1)
    typer.echo(f"published on {shown}: number {position.offset} of epoch {position.epoch}")


Fields = Annotated[list[str], typer.Argument(help="Fields as key=value; values may be JSON.", metavar="KEY=VALUE...")]


@publish_app.command("task")
def publish_task(
    task_id: Annotated[str, typer.Argument(help="The task.")], fields: Fields, redis_url: RedisUrl = None
) -> None:
    """Publish changed fields of a task."""
    update = _fields(fields)

    async def publish(redis: RedisService) -> Position | None:
        return await redis.publish_task_update(task_id, update)

    _publish(redis_url, publish)


@publish_app.command("general")
def publish_general(fields: Fields, redis_url: RedisUrl = None) -> None:
    """Publish something for every connected client."""
    update = _fields(fields)

    async def publish(redis: RedisService) -> Position | None:
        return await redis.publish_general_update(update)

    _publish(redis_url, publish)


@app.command()
def tail(
    task: Annotated[list[str] | None, typer.Option("--task", help="A task to follow; may be repeated.")] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Follow also the tasks that there are, and those that are created: the last 200."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Lines of JSON on a terminal too, as in a pipe.")] = False,
    url: Annotated[str | None, typer.Option(help="The relay's /ws/tasks.")] = None,
) -> None:
    """Show what a client gets: general updates, and those of tasks.

    On a terminal tasks have progress bars; in a pipe every message is a line of JSON. Ctrl-C ends it.
    """
    settings, _ = load()
    url = url or f"ws://{settings.host}:{settings.port}/ws/tasks"
    run_tail(url, task or [], everything=everything, as_json=as_json)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command; errors of ours are one line on stderr and exit status 2."""
    try:
        app()
    except* (RelayError, TailError) as errors:
        for error in _leaves(errors):
            typer.echo(f"relay: {error}", err=True)
        sys.exit(2)
    except* KeyboardInterrupt:
        sys.exit(130)


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return leaves


if __name__ == "__main__":
    main()
