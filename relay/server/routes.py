"""The HTTP routes for operators: health, readiness, metrics. And a WebSocket endpoint's answer to a plain request."""

from quart import Response, request
from quart_trio import QuartTrio

from relay.metrics import CONTENT_TYPE, Metrics
from relay.server.operator_paths import OperatorPaths
from relay.server.running_relay import RelayHandle

#: The answer to a request for a WebSocket endpoint that asks for no upgrade.
_UPGRADE_REQUIRED = "This is a WebSocket endpoint: connect to it with ws:// or wss://, or use /events over HTTP.\n"


def _unready_reason(relay: RelayHandle) -> str | None:
    return "starting" if relay.current is None else relay.current.unready_reason


def add_routes(app: QuartTrio, relay: RelayHandle, metrics: Metrics, paths: OperatorPaths) -> None:
    """Add the routes to an app.

    Args:
        app: The app.
        relay: The relay, once it has started.
        metrics: What is shown.
        paths: Decides who may see details.
    """

    @app.get("/healthz")
    async def healthz() -> tuple[dict[str, str], int]:
        """The process lives and its event loop turns."""
        return {"status": "ok"}, 200

    @app.get("/readyz")
    async def readyz() -> tuple[dict[str, str], int]:
        """A load balancer may send clients here."""
        reason = _unready_reason(relay)
        if reason is None:
            return {"status": "ready"}, 200
        return {"status": reason if paths.shows_details(request.scope) else "unavailable"}, 503

    @app.get("/metrics")
    async def show_metrics() -> Response:
        """The metrics, for Prometheus."""
        if relay.current is not None:
            relay.current.heartbeat.report()
        return Response(metrics.render(), content_type=CONTENT_TYPE)

    @app.get("/ws/tasks")
    async def plain_request() -> Response:
        """What a browser's address bar, a wrong client or a proxy that drops the Upgrade header gets."""
        headers = {"cache-control": "no-store"}
        if request.http_version.startswith("1"):  # HTTP/2 has no Upgrade header, and forbids it
            headers |= {"upgrade": "websocket", "connection": "Upgrade"}
        return Response(_UPGRADE_REQUIRED, 426, headers, content_type="text/plain; charset=utf-8")
