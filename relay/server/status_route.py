"""The route of the status for operators: of all relays on one Redis, at ``/api/status`` and at ``/status``."""

from quart import Response, request
from quart_trio import QuartTrio

from relay.core.errors import Forbidden
from relay.core.grants import EVERYTHING, Verb
from relay.server.api_responses import json_of, json_response
from relay.server.local_requests import is_local
from relay.server.operator_paths import STATUS, is_on_admin
from relay.server.running_relay import RelayHandle
from relay.server.task_paths import TaskPaths


class LocalStatusOnly(Forbidden):
    """A relay that asks for no credentials shows its status on its own machine and to operators only."""

    code = "local_only"
    message = (
        "without credentials this relay shows its status to programs on its own machine only; give operators an address with "
        "RELAY_ADMIN_BIND, or configure API keys or tokens"
    )


async def _require_operator(relay: RelayHandle) -> None:
    """Insist that who asks may see clients' addresses, and what they publish.

    On the operators' listener that is everybody. Where clients need grants, it is who may watch and list everything.

    Raises:
        Unauthenticated, Unverified: The client's credentials do not hold, or cannot be checked now.
        Forbidden: Its grant is none of an operator, or it has none and is elsewhere.
    """
    grant = await relay.running.access.grant_of_request(request)
    if grant is EVERYTHING and not (is_on_admin(request.scope) or is_local(request.scope)):
        raise LocalStatusOnly
    if not all(grant.scope(verb).everything for verb in (Verb.WATCH, Verb.LIST)):
        raise Forbidden


def add_status_route(app: QuartTrio, relay: RelayHandle, paths: TaskPaths) -> None:
    """Add the route to an app.

    Args:
        app: The app.
        relay: The relay, once it has started.
        paths: The paths of the API.
    """

    async def show_status() -> Response:
        """What all relays do now, for operators."""
        await _require_operator(relay)
        return json_response(200, json_of(await relay.running.status.gather()))

    for path, endpoint in ((STATUS, "status"), (paths.status_route, "api_status")):
        app.add_url_rule(path, endpoint, show_status, methods=["GET"])
