"""The HTTP routes for operators: health, readiness, metrics."""

from quart import Response
from quart_trio import QuartTrio

from relay.metrics import CONTENT_TYPE, Metrics
from relay.server.running_relay import RelayHandle


def add_routes(app: QuartTrio, relay: RelayHandle, metrics: Metrics) -> None:
    """Add the routes to an app."""

    @app.get("/healthz")
    async def healthz() -> tuple[dict[str, str], int]:
        """The process lives and its event loop turns."""
        return {"status": "ok"}, 200

    @app.get("/readyz")
    async def readyz() -> tuple[dict[str, str], int]:
        """A load balancer may send clients here."""
        reason = "starting" if relay.current is None else relay.current.unready_reason
        return ({"status": "ready"}, 200) if reason is None else ({"status": reason}, 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        """The metrics, for Prometheus."""
        if relay.current is not None:
            relay.current.heartbeat.report()
        return Response(metrics.render(), content_type=CONTENT_TYPE)
