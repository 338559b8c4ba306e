"""Origins and hosts on every way in; `tests/server/test_cors.py` has the decisions one by one."""

from collections.abc import Iterable

import pytest

from tests.conftest import StartRelay
from tests.harness import Kind, RelayServer
from tests.integration.server.test_client_limits import IDS, WAYS, asked

SETTINGS = {"allowed_origins": "https://app.example", "allowed_hosts": "relay.example, [::1]"}

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
PREFLIGHT = "Access-Control-Request-Method: GET\r\n"

#: Every way in: the request line, more headers, and the status for a page that is allowed.
REQUESTS = [
    ("GET /ws/tasks", UPGRADE, 101),
    ("GET /events?task=t", "", 200),
    ("GET /api/tasks", "", 200),
    ("GET /api/tasks/t", "", 404),
    ("POST /api/tasks/t/heartbeat", "Content-Length: 0\r\n", 404),
    ("OPTIONS /api/tasks", PREFLIGHT, 204),
    ("OPTIONS /events", PREFLIGHT, 204),
    ("GET /relay-client.js", "", 200),
    ("GET /no/such/page", "", 404),
]

FOREIGN_ORIGINS = [
    "https://evil.example",
    "null",
    "HTTPS://APP.EXAMPLE",
    "https://app.example.evil.example",
    "https://evil-app.example",
    "https://app.example:444",
    "https://app.example:443",
    "https://app.example.",
    "https://app.example@evil.example",
    "http://[::1]:1",
    "http://127.0.0.1",
]
FOREIGN_HOSTS = [
    "evil.example",
    "relay.example.evil.example",
    "relay.example.",
    "relay.example:evil",
    "[::2]",
    "127.0.0.1",
]
GOOD = [
    ("relay.example", None),
    ("RELAY.example:8000", "https://app.example"),
    ("[::1]:8000", "https://app.example"),
    ("relay.example:8000", "http://relay.example:8000"),
]


def answers(relay: RelayServer, host: str, origin: str | None) -> Iterable[tuple[str, int, int]]:
    """The requests, with their statuses and the ones that they should have."""
    for line, more, expected in REQUESTS:
        sent = f"{line} HTTP/1.1\r\nHost: {host}\r\n{more}" + (f"Origin: {origin}\r\n" if origin else "")
        with asked(relay, sent.encode() + b"%b\r\n") as head:
            status = int(head.split()[1])
            yield line, status, expected
            is_for_pages = "/ws" not in line and "/no" not in line
            if is_for_pages:
                assert b"vary: origin" in head.lower(), (line, head)
            allowed = b"\naccess-control-allow-origin: " in head.lower()
            assert allowed == (is_for_pages and status == expected and origin is not None), (line, head)


@pytest.mark.parametrize(("kind", "settings"), WAYS, ids=IDS)
def test_foreign_pages_and_names_are_refused_on_every_way_in(
    start_relay: StartRelay, kind: Kind, settings: dict[str, object]
) -> None:
    relay = start_relay(kind, **settings, **SETTINGS)
    for host, origin in GOOD:
        for line, status, expected in answers(relay, host, origin):
            assert status == expected, (host, origin, line)
    for origin in FOREIGN_ORIGINS:
        for line, status, _ in answers(relay, "relay.example", origin):
            assert status == 403, (origin, line)
    for host in FOREIGN_HOSTS:
        for line, status, _ in answers(relay, host, "https://app.example"):
            assert status == 403, (host, line)
    refused = len(REQUESTS) * (len(FOREIGN_ORIGINS) + len(FOREIGN_HOSTS))
    counted = sum(
        relay.metric(f'relay_connections_refused_total{{reason="{reason}"}}') for reason in ("origin", "host")
    )
    assert counted == refused
