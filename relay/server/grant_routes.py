"""The HTTP routes of grants, below the API's prefix: ``/ticket`` and ``/revoke``."""

from typing import Any

import msgspec
from quart import Response, request
from quart_trio import QuartTrio
from relay_wire import revocations

from relay.core.errors import BadMessage, BrokerError, Forbidden
from relay.core.grants import Grant, Verb
from relay.server.auth.tickets import LIFETIME
from relay.server.running_relay import RelayHandle

#: Longest body of a request, in bytes.
_MAX_BODY = 4096


def _json_answer(status: int, body: Any) -> Response:
    # A ticket is a secret for half a minute: nothing on the way may keep it.
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(body), status, headers, content_type="application/json")


def _wanted(body: bytes, ttl: float) -> tuple[str, str, float]:
    """Return what a request revokes: the kind, the name, and for how many seconds.

    Raises:
        BadMessage: The body is malformed.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        fields = {}
    named = [(kind, fields[kind]) for kind in revocations.KINDS if kind in fields]
    seconds = fields.get("seconds", ttl)
    if len(named) != 1 or not isinstance(named[0][1], str) or not isinstance(seconds, int | float):
        raise BadMessage("bad_revocation", 'expected {"sub":"..."} or {"jti":"..."}, and maybe "seconds"')
    return (*named[0], float(seconds))


def add_grant_routes(app: QuartTrio, relay: RelayHandle, api_prefix: str, revocation_ttl: float) -> None:
    """Add the routes to an app, whose error handlers answer for what is raised here.

    Args:
        app: The app.
        relay: The relay, once it has started.
        api_prefix: The path before them.
        revocation_ttl: Seconds for which a revocation is remembered, unless the request says it.
    """

    async def grant() -> Grant:
        return await relay.running.access.of_request(request)

    @app.post(f"{api_prefix}/ticket")
    async def ticket() -> Response:
        """Exchange credentials for a ticket: ``?ticket=`` lets one WebSocket or event stream in."""
        issued = await relay.running.access.tickets.issue(await grant())
        return _json_answer(201, {"ticket": issued, "expires_in": LIFETIME})

    @app.post(f"{api_prefix}/revoke")
    async def revoke() -> Response:
        """Revoke grants, by ``jti`` or ``sub``."""
        if not (await grant()).scope(Verb.REVOKE).everything:
            raise Forbidden
        request.max_content_length = _MAX_BODY
        kind, name, seconds = _wanted(bytes(await request.body), revocation_ttl)
        try:
            call = revocations.revoke_call(kind, name, seconds)
        except ValueError as error:
            raise BadMessage("bad_revocation", str(error)) from None
        (answer,) = await relay.running.redis.run_calls([call])
        if isinstance(answer, BrokerError):
            raise answer
        return _json_answer(200, {"revoked": {kind: name}, "seconds": seconds})
