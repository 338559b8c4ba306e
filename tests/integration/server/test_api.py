"""Task states over HTTP, heartbeats, and stall detection, on real relays."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import httpx
from websockets.sync.client import connect

from tests.conftest import StartRelay
from tests.harness import PATIENCE, RedisServer, RelayServer, eventually

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def call(
    relay: RelayServer, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    request = urllib.request.Request(f"http://127.0.0.1:{relay.port}{path}", method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            body = response.read()
            return response.status, json.loads(body) if body else None, dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            body = error.read()
        is_json = error.headers["content-type"] == "application/json"
        return error.code, json.loads(body) if body and is_json else body or None, dict(error.headers)


def test_states_are_served(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay()
    assert call(relay, "/api/tasks")[:2] == (200, {"tasks": [], "next": None})
    assert call(relay, "/api/tasks/a")[0] == 404
    shared_redis.publish_task("a", status="in_progress", progress=10, tags=[], big=2**60)
    shared_redis.publish_task("a", progress=20)
    shared_redis.publish_task("b/c ü", status="completed")
    eventually(lambda: len(call(relay, "/api/tasks")[1]["tasks"]) == 2)
    status, task, headers = call(relay, "/api/tasks/a")
    assert (status, task["task_id"]) == (200, "a")
    assert task["data"] == {"status": "in_progress", "progress": 20, "tags": [], "big": 2**60}
    assert task["position"]["offset"] == 2
    tag = headers["ETag"] if "ETag" in headers else headers["etag"]
    assert call(relay, "/api/tasks/a", headers={"If-None-Match": tag})[0] == 304
    shared_redis.publish_task("a", progress=30)
    eventually(lambda: call(relay, "/api/tasks/a", headers={"If-None-Match": tag})[0] == 200)
    listed = call(relay, "/api/tasks?status=completed,failed")[1]["tasks"]
    assert [task["task_id"] for task in listed] == ["b/c ü"]
    assert call(relay, "/api/tasks?max_age=0")[1]["tasks"] == []
    for bad in ("limit=0", "limit=x", "limit=9999", "max_age=-1", "max_age=nan", "after=junk"):
        assert call(relay, f"/api/tasks?{bad}")[0] == 400, bad


ODD_IDS = [
    "/videos/1.mp4",
    "videos/1.mp4",
    "//videos//1.mp4",
    "a\nb",
    "a b",
    "é",
    "..",
    "a/heartbeat",
    "?",
    "#",
    "%2F",
    "a;b",
]


def test_ids_are_percent_encoded_and_no_two_are_the_same(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay()
    for task_id in ODD_IDS:
        shared_redis.publish_task(task_id, status="in_progress", name=task_id)
    eventually(lambda: len(call(relay, "/api/tasks")[1]["tasks"]) == len(ODD_IDS))
    for task_id in ODD_IDS:
        path = "/api/tasks/" + urllib.parse.quote(task_id, safe="")
        status, task, _ = call(relay, path)
        assert (status, task["task_id"], task["data"]["name"]) == (200, task_id, task_id)
        assert call(relay, f"{path}/heartbeat", "POST")[0] == 204
    assert call(relay, "/api/tasks/videos/1.mp4")[1]["task_id"] == "videos/1.mp4"  # as it was always taken, too
    for path, status in {"/api/tasks/": 400, "/api/tasks/%ff": 400, "/api/task": 404, "/api/nothing": 404}.items():
        answer = call(relay, path)
        assert (answer[0], set(answer[1])) == (status, {"code", "message"}), path
    assert call(relay, "/api/tasks/a", "PUT")[1]["code"] == "method_not_allowed"


def test_pages_of_other_origins_may_do_what_the_setting_says(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay(allowed_origins="https://app.example", allowed_hosts="127.0.0.1, relay.example")
    redis_server.publish_task("a", status="in_progress")
    eventually(lambda: call(relay, "/api/tasks/a")[0] == 200)
    ours, other = {"Origin": "https://app.example"}, {"Origin": "https://evil.example"}
    asking = {"Access-Control-Request-Method": "POST"}
    for path, method in (("/api/tasks", "GET"), ("/api/tasks/a", "GET"), ("/api/tasks/a/heartbeat", "POST")):
        status, _, headers = call(relay, path, method, ours)
        assert status in (200, 204)
        assert headers["access-control-allow-origin"] == "https://app.example"
        assert headers["access-control-allow-credentials"] == "true"
        assert "access-control-allow-origin" not in call(relay, path, method)[2]
        status, answer, headers = call(relay, path, method, other)
        assert (status, answer["code"], "access-control-allow-origin" in headers) == (403, "origin", False)
        assert call(relay, path, method, {"Host": "rebound.example"})[1]["code"] == "host"
        assert call(relay, path, method, {"Host": "RELAY.example:80"})[0] in (200, 204)
        status, _, headers = call(relay, path, "OPTIONS", ours | asking)
        assert (status, headers["access-control-allow-methods"]) == (204, "GET, POST, DELETE, OPTIONS")
        assert call(relay, path, "OPTIONS", other | asking)[0] == 403
    assert call(relay, "/events?task=a", headers=other)[0] == 403
    assert call(relay, "/events?task=a", headers={"Host": "rebound.example"})[0] == 403
    # Orchestrators ask by address.
    assert call(relay, "/healthz", headers={"Host": "10.1.2.3"})[0] == 200
    for headers in (other, {"Host": "rebound.example"}):
        status, _, _ = call(relay, "/ws/tasks", headers=UPGRADE | headers)
        assert status == 403


def test_pages_have_every_task_once(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay()
    for number in range(57):
        shared_redis.publish_task(f"t{number}", status="in_progress" if number % 3 else "completed")
    eventually(lambda: len(call(relay, "/api/tasks?limit=500")[1]["tasks"]) == 57)
    seen: list[str] = []
    after = ""
    while True:
        page = call(relay, f"/api/tasks?limit=10&status=in_progress{after}")[1]
        seen += [task["task_id"] for task in page["tasks"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert len(seen) == len(set(seen))
    assert set(seen) == {f"t{number}" for number in range(57) if number % 3}


def test_announced_task_has_a_state(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay()
    shared_redis.publish_general(type="task_created", task_info={"task_id": 5, "status": "pending", "tier": "gold"})
    eventually(lambda: call(relay, "/api/tasks/5")[0] == 200)
    assert call(relay, "/api/tasks/5")[1]["data"] == {"status": "pending", "tier": "gold"}
    with relay.client("5") as client:
        assert client.receive()["data"] == {"status": "pending", "tier": "gold"}


def test_silent_task_is_marked_once_and_unmarked_by_life(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relays = [start_relay(task_stall_seconds=1), start_relay(task_stall_seconds=1)]
    redis_server.publish_task("waiting", status="pending")
    with relays[0].client() as one, relays[1].client() as two:
        for client in (one, two):
            client.send({"type": "subscribe", "task_id": "t", "position": None})
            assert client.receive()["type"] == "subscribed"
        redis_server.publish_task("t", status="in_progress")
        for client in (one, two):
            assert client.receive()["data"] == {"status": "in_progress"}
        marked = [client.receive() for client in (one, two)]
        assert marked[0] == marked[1]
        assert marked[0]["data"] == {"stalled": True}
        offset = marked[0]["position"]["offset"]
        assert call(relays[1], "/api/tasks/t/heartbeat", "POST")[0] == 204
        for client in (one, two):
            unmarked = client.receive()
            assert (unmarked["data"], unmarked["position"]["offset"]) == ({"stalled": False}, offset + 1)
            again = client.receive()
            assert (again["data"], again["position"]["offset"]) == ({"stalled": True}, offset + 2)
        redis_server.publish_task("t", progress=50)
        for client in (one, two):
            assert client.receive()["data"] == {"progress": 50}
            assert client.receive()["data"] == {"stalled": False}
    assert call(relays[0], "/api/tasks/t")[1]["data"] == {"status": "in_progress", "stalled": False, "progress": 50}
    assert "stalled" not in call(relays[0], "/api/tasks/waiting")[1]["data"]
    assert call(relays[0], "/api/tasks/unknown/heartbeat", "POST")[0] == 404
    logs = [relay.logged() for relay in relays]
    assert sum('"detecting stalled tasks"' in log for log in logs) == 1


def test_another_relay_continues_stall_detection(redis_server: RedisServer, start_relay: StartRelay) -> None:
    first, second = start_relay(task_stall_seconds=1), start_relay(task_stall_seconds=1)
    eventually(lambda: any("detecting stalled tasks" in relay.logged() for relay in (first, second)))
    if "detecting stalled tasks" in second.logged():
        first, second = second, first
    first.kill()
    redis_server.publish_task("t", status="in_progress")
    eventually(lambda: call(second, "/api/tasks/t")[0] == 200)
    eventually(lambda: call(second, "/api/tasks/t")[1]["data"].get("stalled") is True)


def test_while_redis_is_away_no_answer_says_where_it_is(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    api = json.loads(relay.get("/api/openapi.json")[1])
    redis_server.kill()
    eventually(lambda: relay.get("/readyz")[0] == 503)
    answers: dict[str, tuple[int, bytes]] = {"readyz": (503, relay.get("/readyz")[1].encode())}
    with httpx.Client(base_url=f"http://127.0.0.1:{relay.port}", timeout=20) as client:
        for path, operations in api["paths"].items():
            body: dict[str, Any]
            if path.endswith("/status"):  # for operators; it goes on answering, and says what is wrong
                continue
            for method in operations.keys() & {"get", "post", "delete"}:
                body = (
                    {"updates": []} if path.endswith("/batch") else {} if "{task_id}/" in path else {"data": {"n": 1}}
                )
                answer = client.request(method, re.sub(r"\{\w+\}", "t", path), json=body if method == "post" else None)
                answers[f"{method} {path}"] = (answer.status_code, answer.content)
        for name, body in (("publish", {"channel": "task:t", "data": {"n": 1}}), ("history", {"channel": "task:t"})):
            answer = client.post(f"/centrifugo/api/{name}", json=body)
            answers[f"centrifugo {name}"] = (503 if "error" in answer.json() else answer.status_code, answer.content)
        answer = client.post("/.well-known/mercure", data={"topic": "https://example.com/t", "data": "1"})
        answers["mercure publish"] = (answer.status_code, answer.content)
        with client.stream("GET", "/events", params={"task": "t"}) as stream:
            first = next(stream.iter_raw())
            answers["/events"] = (stream.status_code, first + repr(stream.headers.multi_items()).encode())
    with relay.client() as watcher:
        watcher.send({"type": "subscribe", "task_id": "t", "position": None})
        answers["/ws/tasks"] = (503, json.dumps(watcher.receive()).encode())
    with connect(f"ws://127.0.0.1:{relay.port}/connection/websocket", open_timeout=PATIENCE) as centrifuge:
        for command in ({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "task:t", "recoverable": True}}):
            centrifuge.send(json.dumps(command))
            text = centrifuge.recv(PATIENCE)
        assert '"error"' in str(text)
        answers["/connection/websocket"] = (503, str(text).encode())
    assert {
        *("readyz", "centrifugo publish", "centrifugo history", "mercure publish"),
        *(
            f"{method} /api/tasks{rest}"
            for method, rest in (("get", ""), ("get", "/{task_id}"), ("post", "/{task_id}"))
        ),
    } <= {name for name, (status, _) in answers.items() if status == 503}
    address = re.compile(rf"127\.0\.0\.1|localhost|redis://|\b{redis_server.port}\b".encode())
    assert {name: body for name, (_, body) in answers.items() if address.search(body)} == {}


def test_a_task_whose_id_has_a_slash(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay()
    shared_redis.publish_task("a/b", n=1)
    for path in ("/api/tasks/a/b", "/api/tasks/a%2Fb"):
        eventually(lambda path=path: '"n":1' in relay.get(path)[1])  # type: ignore[misc]
    request = urllib.request.Request(f"http://127.0.0.1:{relay.port}/api/tasks/a/b/heartbeat", method="POST")
    with urllib.request.urlopen(request, timeout=20) as response:
        assert response.status == 204
