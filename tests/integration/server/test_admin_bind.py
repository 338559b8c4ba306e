"""The operators' listener: what answers there answers nowhere else, however the relay is run."""

import json
import signal
import socket

import httpx
import pytest

from tests import commands
from tests.conftest import StartRelay
from tests.harness import PATIENCE, Kind, RedisServer, RelayServer, eventually
from tests.ports import free_port

KINDS: list[tuple[Kind, tuple[str, ...]]] = [
    ("hypercorn", ()),
    ("hypercorn-supervised", ("-w", "2")),
    ("serve", ()),
    ("serve", ("--workers", "2")),
    ("uvicorn", ()),
]
IDS = ["hypercorn", "hypercorn -w 2", "serve", "serve --workers 2", "uvicorn"]


def ask(port: int, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{port}{path}", headers=headers, timeout=PATIENCE, verify=False)


@pytest.mark.parametrize(("kind", "arguments"), KINDS, ids=IDS)
def test_what_is_for_operators_answers_on_their_listener_alone(
    start_relay: StartRelay, redis_server: RedisServer, kind: Kind, arguments: tuple[str, ...]
) -> None:
    admin = free_port()
    relay = start_relay(kind, arguments=arguments, admin_bind=f"127.0.0.1:{admin}")
    redis_server.publish_task("t", status="in_progress")
    eventually(lambda: ask(admin, "/api/tasks/t").status_code == 200)
    for path in ("/metrics", "/status", "/api/status", "/api/tasks", "/api/tasks?limit=1", "/api/tasks/"):
        assert ask(relay.port, path).status_code == 404, path
    assert ask(relay.port, "/api/tasks/t").status_code == 200  # who knows its id
    assert [task["task_id"] for task in ask(admin, "/api/tasks").json()["tasks"]] == ["t"]
    assert "relay_subscriptions" in ask(admin, "/metrics").text
    assert ask(admin, "/api/status").json()["needs_grants"] is False
    number = 2 if "2" in arguments else 1

    def ready() -> int:  # one of several workers may still be starting, or be too busy to answer
        shown = commands.run("status", "--json", RELAY_ADMIN_BIND=f"127.0.0.1:{admin}")
        assert (shown.returncode, shown.stderr) == (0, "")
        return sum(each["status"] == "ready" for each in json.loads(shown.stdout)["relays"])

    eventually(lambda: ready() == number)
    moved = commands.run("status", "--url", f"http://127.0.0.1:{relay.port}")
    assert (moved.returncode, "RELAY_ADMIN_BIND" in moved.stderr) == (6, True)
    for port in (relay.port, admin):
        assert ask(port, "/healthz").json() == {"status": "ok"}
        assert ask(port, "/readyz").json() == {"status": "ready"}
    for path in ("/ws/tasks", "/events?task=t", "/relay-client.js", "/"):
        assert ask(admin, path).status_code == 404, path
    assert ask(admin, "/api/tasks/t/heartbeat", "POST").status_code == 404  # it changes nothing
    for foreign in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert ask(admin, "/api/tasks", **foreign).status_code == 403
    assert "access-control-allow-origin" not in ask(admin, "/api/tasks").headers
    with relay.client("t") as client:
        redis_server.publish_task("t", n=1)
        while "n" not in client.receive().get("data", {}):
            pass
        assert relay.terminate() in (0, -signal.SIGTERM)  # uvicorn ends by the signal itself
    eventually(lambda: not answers(admin))


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_probes_on_the_clients_listener_say_no_more_than_they_must(
    start_relay: StartRelay, redis_server: RedisServer
) -> None:
    admin = free_port()
    relay = start_relay(admin_bind=f"127.0.0.1:{admin}")
    redis_server.signal(signal.SIGSTOP)
    try:
        eventually(lambda: ask(relay.port, "/readyz").status_code == 503)
        assert ask(relay.port, "/readyz").json() == {"status": "unavailable"}
        assert "redis" in ask(admin, "/readyz").json()["status"]
        assert ask(admin, "/status").json()["status"] != "ready"
        assert ask(relay.port, "/healthz").status_code == ask(admin, "/healthz").status_code == 200
    finally:
        redis_server.thaw()


def test_an_address_that_is_taken_is_named(start_relay: StartRelay) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        for kind in ("serve", "hypercorn"):
            relay = start_relay(kind, wait=False, admin_bind=bind)
            assert relay.wait() != 0 or kind == "hypercorn"
            eventually(lambda relay=relay: "RELAY_ADMIN_BIND: cannot listen" in relay.logged())  # type: ignore[misc]


def test_without_a_listener_of_their_own_operators_ask_where_clients_do(share_relay: StartRelay) -> None:
    relay: RelayServer = share_relay()
    for path in ("/metrics", "/status", "/api/status", "/healthz", "/readyz", "/api/tasks"):
        assert ask(relay.port, path).status_code == 200
