"""The HTTP routes of grants, below the API's prefix: ``/ticket``, ``/tasks/<id>/share`` and ``/revoke``."""

from time import time
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta
from quart import Response, request
from quart_trio import QuartTrio
from relay_wire import revocations

from relay.core.channels import task_channel
from relay.core.errors import BrokerError, Forbidden, Unauthenticated
from relay.core.grants import EVERYTHING, Decision, Grant, Verb
from relay.server.admission import CLIENT_LIMIT
from relay.server.api_errors import Refused
from relay.server.api_responses import body_of_request, json_of, task_id_of_request
from relay.server.auth.access import require
from relay.server.auth.share_links import ShareLinks
from relay.server.auth.tickets import LIFETIME
from relay.server.running_relay import RelayHandle, RunningRelay
from relay.server.task_paths import TaskPaths

#: Longest body of a request, in bytes: a token, and a little around it.
_MAX_BODY = 16 * 1024

#: Longest token, in characters.
_MAX_TOKEN = 8192

#: Longest time for which a link is asked for, or a revocation is to be remembered, in seconds.
_MAX_SECONDS = 1e10

_NO_LINKS_NEEDED = (
    "this relay asks nobody for credentials: the address of the task is enough for anyone who reaches the relay"
)
_NO_LINKS = (
    "this relay makes no share links: its operator sets RELAY_SHARE_KEY or RELAY_JWT_SECRET, and RELAY_SHARE_TTL"
)
_EXPECTED = 'expected one of {"sub":"..."}, {"jti":"..."} and {"token":"..."}, and maybe "seconds"'


class ShareRequest(msgspec.Struct, forbid_unknown_fields=True):
    """How long a share link is to hold."""

    ttl: (
        Annotated[float, Meta(ge=1, le=_MAX_SECONDS, description="Seconds. It may end sooner, see `expires_at`.")]
        | None
    ) = None


class RevokeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What is revoked: exactly one of a subject, the id of a token, and a token itself."""

    sub: (
        Annotated[
            str, Meta(min_length=1, max_length=revocations.MAX_LENGTH, description="All tokens of this user so far.")
        ]
        | None
    ) = None
    jti: (
        Annotated[str, Meta(min_length=1, max_length=revocations.MAX_LENGTH, description="The token of this id.")]
        | None
    ) = None
    token: (
        Annotated[str, Meta(max_length=_MAX_TOKEN, description="This token; one of a link that the client has made.")]
        | None
    ) = None
    seconds: (
        Annotated[
            float, Meta(gt=0, le=_MAX_SECONDS, description="How long this is remembered; as RELAY_REVOCATION_TTL.")
        ]
        | None
    ) = None


class _Revocation(NamedTuple):
    kind: str
    name: str
    seconds: float


def _secret_response(status: int, body: Any) -> Response:
    # Tickets and tokens are secrets: nothing on the way may keep them.
    headers = {"cache-control": "no-store"}
    return Response(json_of(body), status, headers, content_type="application/json")


def _is_shared_by(grant: Grant, shared: Grant) -> bool:
    """Whether a grant is that of a share link which the bearer of another grant has made."""
    by = shared.shared_by
    return by is not None and by.subject is not None and by.subject == grant.subject


async def _wanted(running: RunningRelay, grant: Grant, ttl: float) -> _Revocation:
    """Return what a request revokes.

    Raises:
        BadMessage: The body is malformed, or names nothing that can be revoked.
        Forbidden: The client may not.
    """
    body = await body_of_request(RevokeRequest)
    named = [(kind, name) for kind in revocations.KINDS if (name := getattr(body, kind)) is not None]
    may_all = grant.scope(Verb.REVOKE).everything
    if body.token is None:
        if not may_all:
            raise Forbidden
        if len(named) != 1:
            raise Refused(422, "bad_revocation", _EXPECTED)
        return _Revocation(*named[0], ttl if body.seconds is None else body.seconds)
    if named or body.seconds is not None:
        raise Refused(422, "bad_revocation", _EXPECTED)
    try:
        shared = await running.access.grant_of_token(body.token)
    except Unauthenticated:
        raise Refused(422, "bad_revocation", "the token does not hold, or holds no longer") from None
    if not may_all and not _is_shared_by(grant, shared):
        raise Forbidden
    if shared.token_id is None:
        raise Refused(422, "bad_revocation", "the token has no `jti` by which it could be revoked")
    seconds = ttl if shared.expires_at is None else max(1.0, shared.expires_at - time())
    return _Revocation("jti", shared.token_id, seconds)


def _share_links(running: RunningRelay, grant: Grant) -> ShareLinks:
    """Return what makes share links; raises Refused if nothing does."""
    links = running.access.share_links
    if links is not None:
        return links
    if grant is EVERYTHING:
        raise Refused(409, "sharing_unneeded", _NO_LINKS_NEEDED)
    raise Refused(409, "sharing_off", _NO_LINKS)


def add_grant_routes(app: QuartTrio, relay: RelayHandle, paths: TaskPaths, revocation_ttl: float) -> None:
    """Add the routes to an app, whose error handlers answer for what is raised here.

    Args:
        app: The app.
        relay: The relay, once it has started.
        paths: The paths of the API.
        revocation_ttl: Seconds for which a revocation is remembered, unless the request says it.
    """

    async def grant() -> Grant:
        return await relay.running.access.grant_of_request(request)

    @app.post(f"{paths.api_prefix}/ticket")
    async def ticket() -> Response:
        """Exchange credentials for a ticket: ``?ticket=`` lets one WebSocket or event stream in."""
        issued = await relay.running.access.tickets.issue(await grant())
        return _secret_response(201, {"ticket": issued, "expires_in": LIFETIME})

    @app.post(paths.share_route)
    async def share() -> Response:
        """Make a share link: a token by which others may watch this one task."""
        task_id = task_id_of_request()
        request.max_content_length = _MAX_BODY
        body = await body_of_request(ShareRequest) if await request.get_data() else ShareRequest()
        running = relay.running
        granted = await grant()
        retry_after = running.admission.limit_subject(granted, 1)
        if retry_after is not None:
            raise Refused(429, CLIENT_LIMIT, "too many requests with this key or token; send fewer", retry_after)
        if require(granted, Verb.WATCH, task_channel(task_id)) is Decision.NEEDS_OWNER:
            owners = await running.tasks.owners([task_id])
            require(granted, Verb.WATCH, task_channel(task_id), owners[task_id] or frozenset())
        link = _share_links(running, granted).make(task_id, granted, body.ttl)
        answer = {
            "task_id": task_id,
            "token": link.token,
            "token_id": link.grant.token_id,
            "expires_at": link.grant.expires_at,
            "fragment": f"#share={link.token}",
        }
        return _secret_response(201, answer)

    @app.post(f"{paths.api_prefix}/revoke")
    async def revoke() -> Response:
        """Revoke grants, by ``jti`` or ``sub``, or one's own share link by its token."""
        request.max_content_length = _MAX_BODY
        running = relay.running
        wanted = await _wanted(running, await grant(), revocation_ttl)
        call = revocations.revoke_call(wanted.kind, wanted.name, wanted.seconds)
        (answer,) = await running.redis.run_calls([call])
        if isinstance(answer, BrokerError):
            raise answer
        return _secret_response(200, {"revoked": {wanted.kind: wanted.name}, "seconds": wanted.seconds})
