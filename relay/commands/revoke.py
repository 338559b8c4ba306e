"""`relay revoke`: end grants before their time, on all relays of a Redis."""

import json

import trio
import typer
from relay_wire.revocations import revoke_call

from relay import logs
from relay.broker.embedded import DEFAULT_PORT
from relay.broker.opening import open_redis
from relay.commands.token import seconds_of
from relay.config import load
from relay.core.errors import BrokerError


def run(
    subject: str | None, token_id: str | None, remembered: str | None, redis_url: str | None, *, as_json: bool
) -> None:
    """Revoke the grants of a subject, or one grant."""
    if (subject is None) == (token_id is None):
        raise typer.BadParameter("say which grants: --sub for those of a user or service, or --jti for one token")
    settings, redis_settings = load(redis_url=redis_url)
    logs.configure("CRITICAL")
    url = redis_settings.configured_url() or f"redis://127.0.0.1:{DEFAULT_PORT}/0"
    seconds = settings.revocation_ttl if remembered is None else seconds_of(remembered)
    kind, name = ("sub", subject) if subject is not None else ("jti", token_id or "")
    try:
        call = revoke_call(kind, name or "", seconds)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    async def revoke() -> None:
        async with open_redis(url, settings, redis_settings) as redis:
            (answer,) = await redis.run_calls([call])
            if isinstance(answer, BrokerError):
                raise answer

    trio.run(revoke)
    if as_json:
        typer.echo(json.dumps({"redis": logs.without_password(url), "revoked": {kind: name}, "seconds": seconds}))
        return
    typer.echo(f"revoked on {logs.without_password(url)}: {kind} {name}")
