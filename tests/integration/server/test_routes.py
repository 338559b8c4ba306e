"""What a relay serves besides WebSockets: the page, scripts for other pages, and its API below another prefix."""

import re

import httpx
import pytest

from relay.config import Settings
from relay.server.static_files import SCRIPTS
from tests.conftest import StartRelay
from tests.harness import PATIENCE, ROOT, RedisServer, RelayServer, eventually

STATIC = ROOT / "relay" / "server" / "static"


def ask(relay: RelayServer, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{relay.port}{path}", headers=headers, timeout=20)


def test_a_plain_get_of_the_websocket_requires_an_upgrade(share_relay: StartRelay) -> None:
    relay = share_relay()
    answer = ask(relay, "/ws/tasks")
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    assert "upgrade" in answer.headers["connection"].lower()
    assert "ws://" in answer.text
    assert answer.text.count("\n") == 1
    with relay.client("t"):  # which still works
        pass


@pytest.mark.parametrize("path", sorted(SCRIPTS))
def test_scripts_are_served_to_pages_of_other_origins(path: str, share_relay: StartRelay) -> None:
    relay = share_relay()
    answer = ask(relay, path, origin="https://elsewhere.example")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["access-control-allow-origin"] == "*"  # modules of other origins need it
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.content == (STATIC / path[1:]).read_bytes()
    plain = ask(relay, path, **{"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == answer.content
    tag = answer.headers["etag"]
    assert ask(relay, path, **{"if-none-match": tag}).status_code == 304
    assert ask(relay, path, **{"if-none-match": '"other"'}).status_code == 200
    head = ask(relay, path, "HEAD")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)


def test_the_page_runs_its_own_script_and_nothing_else(share_relay: StartRelay) -> None:
    relay = share_relay(api_prefix="/relay/v1")
    answer = ask(relay, "/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert "access-control-allow-origin" not in answer.headers
    assert '<meta name="relay-api" content="/relay/v1">' in answer.text
    assert not re.search(r"<script(?![^>]* src=)|<style|\bon\w+=|\bstyle=", answer.text), "nothing inline"
    addresses = re.findall(r'(?:src|href)="([^"#]+)"', answer.text)
    assert {"./relay-page.js", "./relay-page.css"} <= set(addresses)
    for address in addresses:
        assert address.startswith("./"), "nothing from elsewhere"
        assert ask(relay, address[1:]).status_code == 200


def test_the_page_can_be_switched_off(share_relay: StartRelay) -> None:
    relay = share_relay(page="off")
    for path in ("/", "/relay-page.js", "/relay-page.css"):
        assert ask(relay, path).status_code == 404
    assert ask(relay, "/relay.js").status_code == 200


def test_the_api_has_another_prefix(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay(api_prefix="/relay/v1")
    shared_redis.publish_task("a/b", status="in_progress")
    eventually(lambda: ask(relay, "/relay/v1/tasks/a%2Fb").status_code == 200)
    assert [task["task_id"] for task in ask(relay, "/relay/v1/tasks").json()["tasks"]] == ["a/b"]
    assert ask(relay, "/relay/v1/tasks/a%2Fb/heartbeat", "POST").status_code == 204
    preflight = {"origin": "https://elsewhere.example", "access-control-request-method": "GET"}
    assert ask(relay, "/relay/v1/tasks", "OPTIONS", **preflight).status_code == 204
    assert ask(relay, "/relay/v1/none").json()["code"] == "not_found"
    for path in ("/api/tasks", "/api/tasks/a%2Fb", "/api/tasks/a%2Fb/heartbeat"):
        assert ask(relay, path).status_code == 404


def test_the_way_of_an_update_is_measured_from_redis_to_the_socket(
    share_relay: StartRelay, shared_redis: RedisServer
) -> None:
    relay = share_relay()
    count = "relay_publish_latency_seconds_count"
    with relay.client("t") as client:
        before, number = relay.metric(count), 0
        while relay.metric(count) == before:  # one of some updates is measured
            number += 1
            shared_redis.publish_task("t", n=number)
            assert client.receive()["data"] == {"n": number}
    assert relay.metric("relay_plain_publishes_stored_total") == number
    assert 0 <= relay.metric("relay_publish_latency_seconds_sum") < PATIENCE


def test_the_event_loop_and_the_probes_are_measured(share_relay: StartRelay) -> None:
    relay = share_relay()
    laps = relay.metric("relay_event_loop_lag_seconds_count")
    eventually(lambda: relay.metric("relay_event_loop_lag_seconds_count") > laps)
    assert relay.metric('relay_event_loop_lag_seconds_bucket{le="+Inf"}') > 0
    eventually(lambda: 0 < relay.metric("relay_redis_probe_age_seconds") < 10)
    assert relay.metric("relay_connections_max") == Settings.model_fields["max_clients"].default
