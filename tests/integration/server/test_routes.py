"""What a relay serves besides WebSockets: its browser client, and its API below another prefix."""

import httpx

from tests.conftest import StartRelay
from tests.harness import ROOT, RedisServer, RelayServer, eventually


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


def test_the_browser_client_is_served(share_relay: StartRelay) -> None:
    relay = share_relay()
    answer = ask(relay, "/relay-client.js", origin="https://elsewhere.example")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["access-control-allow-origin"] == "*"  # modules of other origins need it
    assert answer.text == (ROOT / "relay" / "server" / "relay-client.js").read_text()
    tag = answer.headers["etag"]
    assert ask(relay, "/relay-client.js", **{"if-none-match": tag}).status_code == 304
    assert ask(relay, "/relay-client.js", **{"if-none-match": '"other"'}).status_code == 200
    head = ask(relay, "/relay-client.js", "HEAD")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)


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
