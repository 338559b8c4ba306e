"""What is served where: the doors for WebSocket clients, and the HTTP routes for operators."""

from functools import partial

from quart import Response

from relay.metrics import CONTENT_TYPE
from relay.protocols.tasks import TasksProtocol
from relay.server.accepting import Acceptor
from relay.server.api import add_api
from relay.server.app import RelayApp
from relay.server.doors import DoorConnection, may_enter
from relay.server.event_streams import EventsConnection


def add_routes(app: RelayApp) -> None:
    """Give the app its doors and routes."""
    relay = app.relay
    app.doors = {"/ws/tasks": partial(TasksProtocol, relay.named)}
    app.acceptor = Acceptor(app.doors, relay.sessions, partial(may_enter, relay), relay.drain_with)
    relay.on_terminated.append(app.acceptor.hang_up)
    app.asgi_websocket_class = DoorConnection
    app.asgi_http_class = EventsConnection
    add_api(app)

    @app.get("/healthz")
    async def healthz() -> tuple[dict[str, str], int]:
        """The process lives and its event loop turns."""
        return {"status": "ok"}, 200

    @app.get("/readyz")
    async def readyz() -> tuple[dict[str, str], int]:
        """Clients may be sent here: Redis answers and the subscription is alive."""
        reason = relay.not_ready
        return ({"status": "ready"}, 200) if reason is None else ({"status": reason}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        relay.sessions.report()
        return Response(relay.metrics.render(), content_type=CONTENT_TYPE)
