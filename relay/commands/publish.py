"""`relay publish`: publish one update, as a service would."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import trio
import typer
from relay_client.encoding import well_formed
from relay_client.tail.errors import ExitStatus

from relay import logs
from relay.broker.embedded import DEFAULT_PORT
from relay.broker.opening import open_redis
from relay.broker.service import RedisBroker
from relay.commands.errors import CommandError
from relay.config import load
from relay.core.updates import Position


def _fields(pairs: list[str]) -> dict[str, Any]:
    """``key=value`` pairs; values are JSON where they can be read as such, text otherwise."""
    fields: dict[str, Any] = {}
    for pair in map(well_formed, pairs):  # an argument may have bytes that are not UTF-8
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


def _publish(
    redis_url: str | None, publish: Callable[[RedisBroker], Awaitable[Position | None]], *, as_json: bool
) -> None:
    settings, redis_settings = load(redis_url=redis_url)
    logs.configure("CRITICAL")
    url = redis_settings.configured_url() or f"redis://127.0.0.1:{DEFAULT_PORT}/0"

    async def run() -> Position | None:
        async with open_redis(url, settings, redis_settings) as redis:
            return await publish(redis)

    position = trio.run(run)
    shown = logs.without_password(url)
    if position is None:
        raise CommandError(f"published on {shown}, but Redis is out of memory and does not keep it", ExitStatus.REFUSED)
    if as_json:
        typer.echo(json.dumps({"redis": shown, "position": position._asdict()}))
        return
    typer.echo(f"published on {shown}: number {position.offset} of epoch {position.epoch}")


def publish_task(task_id: str, pairs: list[str], redis_url: str | None, *, as_json: bool) -> None:
    """Publish changed fields of a task."""
    update = _fields(pairs)
    _publish(redis_url, lambda redis: redis.publish_task_update(task_id, update), as_json=as_json)


def publish_general(pairs: list[str], redis_url: str | None, *, as_json: bool) -> None:
    """Publish something for every connected client."""
    update = _fields(pairs)
    _publish(redis_url, lambda redis: redis.publish_general_update(update), as_json=as_json)
