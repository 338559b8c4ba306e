"""Publishing over HTTP, on real relays and a real Redis."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.conftest import StartRelay
from tests.harness import RedisServer, RelayServer, eventually
from tests.integration.client.reading import log_of, state_of


@pytest.fixture
def relay(share_relay: StartRelay) -> RelayServer:
    return share_relay(extra_channels="news*", message_timeout=0.5, max_update_bytes=4096)


@pytest.fixture
def api(relay: RelayServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{relay.port}/api", timeout=20) as client:
        yield client


def update(**fields: Any) -> dict[str, Any]:
    return {"data": fields}


def test_a_task_is_made_moved_and_ended(api: httpx.Client, relay: RelayServer, shared_redis: RedisServer) -> None:
    with relay.client("t") as watcher:
        first = api.post("/tasks/t", json={**update(status="in_progress", tags=[], big=2**60), "owner": ["user:7"]})
        assert first.status_code == 200
        assert first.json()["task_id"] == "t"
        assert first.json()["position"]["offset"] == 1
        assert api.post("/tasks/t", json=update(progress=50)).json()["position"]["offset"] == 2
        last = api.post("/tasks/t", json=update(status="completed")).json()["position"]
        received = [watcher.receive()["data"] for _ in range(3)]
    assert received == [{"status": "in_progress", "tags": [], "big": 2**60}, {"progress": 50}, {"status": "completed"}]
    task = api.get("/tasks/t").json()
    assert task["data"] == {"status": "completed", "tags": [], "big": 2**60, "progress": 50}
    assert (task["position"], task["owner"]) == (last, ["user:7"])


def test_ids_may_have_any_character(api: httpx.Client, shared_redis: RedisServer) -> None:
    for task_id in ("/videos/1.mp4", "a/cancel", "é ?#%2F", "a/history"):
        path = f"/tasks/{quote(task_id, safe='')}"
        assert api.post(path, json=update(name=task_id)).json()["task_id"] == task_id
        assert state_of(shared_redis, task_id) == {"name": task_id}
        assert api.get(f"{path}/history").json()["updates"][0]["data"] == {"name": task_id}
        assert api.post(f"{path}/cancel").json()["outcome"] == "cancel_requested"
        assert api.delete(path).status_code == 204


def test_the_same_key_is_the_same_update(api: httpx.Client, shared_redis: RedisServer) -> None:
    key = {"Idempotency-Key": '"8e03978e"'}
    first = api.post("/tasks/t", json=update(progress=1), headers=key)
    api.post("/tasks/t", json=update(progress=2))
    again = api.post("/tasks/t", json=update(progress=1), headers={"Idempotency-Key": "8e03978e"})
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert [offset for offset, _, _ in log_of(shared_redis, "task:t")] == [1, 2]
    other = api.post("/tasks/t", json=update(progress=3), headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert api.post("/tasks/other", json=update(progress=3), headers=key).json()["position"]["offset"] == 1
    for bad in ("", "k" * 256):
        answer = api.post("/tasks/t", json=update(progress=3), headers={"Idempotency-Key": bad})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_idempotency_key")


def test_fields_that_append(api: httpx.Client, shared_redis: RedisServer) -> None:
    api.post("/tasks/t", json=update(text="Once", number=1))
    more = update(text={"$append": " upon"})
    for _ in range(2):
        assert api.post("/tasks/t", json=more, headers={"Idempotency-Key": "k"}).json()["position"]["offset"] == 2
    assert api.get("/tasks/t").json()["data"] == {"text": "Once upon", "number": 1}
    assert api.get("/tasks/t/history").json()["updates"][1]["data"] == {"text": {"$append": " upon"}}
    for key in ({"Idempotency-Key": "other"}, {}):
        answer = api.post("/tasks/t", json=update(number={"$append": "x"}), headers=key)
        assert (answer.status_code, answer.json()["code"]) == (409, "append_mismatch")
        assert "number" in answer.json()["message"]
    assert api.post("/tasks/t", json=update(text=5)).status_code == 200
    again = api.post("/tasks/t", json=more, headers={"Idempotency-Key": "k"})
    assert again.json()["position"]["offset"] == 2  # although it could not be appended any more


def test_general_updates_and_extra_channels(api: httpx.Client, relay: RelayServer, shared_redis: RedisServer) -> None:
    with relay.client() as watcher:
        watcher.send({"type": "subscribe", "channel": "news/today"})
        assert watcher.receive()["type"] == "subscribed"
        first, second = (api.post("/general", json=update(note=note)).json() for note in ("hello", "again"))
        assert second["position"] == {**first["position"], "offset": first["position"]["offset"] + 1}
        for note in ("hello", "again"):
            assert watcher.receive() == {"type": "general_update", "data": {"note": note}}
        sent = api.post("/channels/news%2Ftoday", json=update(headline="rain")).json()
        assert sent == {"channel": "news/today", "position": {"epoch": sent["position"]["epoch"], "offset": 1}}
        assert watcher.receive() == {"headline": "rain"}
    answer = api.post("/channels/other", json=update(headline="rain"))
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_channel")


def test_an_announcement_creates_its_task(api: httpx.Client, shared_redis: RedisServer) -> None:
    announcement = update(type="task_created", task_info={"task_id": "t", "title": "A film", "status": "pending"})
    key = {"Idempotency-Key": "k"}
    first, again = (api.post("/general", json={**announcement, "owner": "user:7"}, headers=key) for _ in range(2))
    assert again.json()["position"] == first.json()["position"]
    task = api.get("/tasks/t").json()
    assert (task["data"], task["owner"]) == ({"title": "A film", "status": "pending"}, ["user:7"])


def test_a_batch_is_published_in_order(api: httpx.Client, shared_redis: RedisServer) -> None:
    updates: list[Any] = [{"task_id": "t", "data": {"progress": number}} for number in range(50)]
    updates += [
        {"channel": "general", "data": {"note": "x"}},
        {"channel": "news", "data": {"a": 1}},
        {"channel": "other", "data": {"a": 1}},
        {"task_id": "t", "channel": "news", "data": {}},
        {"task_id": "u", "data": {"a": 1}, "parent_id": "t"},
    ]
    key = {"Idempotency-Key": "batch"}
    answer = api.post("/batch", json={"updates": updates}, headers=key)
    results = answer.json()["results"]
    assert answer.status_code == 207
    assert [result["position"]["offset"] for result in results[:50]] == list(range(1, 51))
    assert [result.get("error", {}).get("code") for result in results[50:]] == [
        None,
        None,
        "unknown_channel",
        "wrong_type",
        None,
    ]

    def published() -> list[Any]:
        """Without what the task tells of its child, after a while."""
        return [data["progress"] for _, _, data in log_of(shared_redis, "task:t") if "progress" in data]

    assert published() == list(range(50))
    assert api.post("/batch", json={"updates": updates}, headers=key).json() == answer.json()
    assert len(published()) == 50
    assert api.post("/batch", json={"updates": updates[:3]}).status_code == 200
    for bad in ([], updates[:1] * 101):
        assert api.post("/batch", json={"updates": bad}).status_code == 400


BAD_BODIES: dict[bytes, str] = {
    b"": "not_json",
    b"{": "not_json",
    b"[]": "wrong_type",
    b'{"progress":40}': "wrong_type",
    b'{"data":[1]}': "wrong_type",
    b'{"data":{"a":NaN}}': "not_json",
    b'{"data":{"a":"\xff"}}': "invalid_utf8",
    b'{"data":' + b'{"a":' * 2000 + b"1" + b"}" * 2001: "too_deep",
    b'{"data":{"a":1},"owner":""}': "wrong_type",
    b'{"data":{"a":1},"owner":5}': "wrong_type",
    b'{"data":{' + b",".join(b'"f%d":1' % n for n in range(300)) + b"}}": "too_many_fields",
}


@pytest.mark.parametrize("body", list(BAD_BODIES), ids=list(map(str, range(len(BAD_BODIES)))))
def test_a_bad_body_is_answered(body: bytes, api: httpx.Client, shared_redis: RedisServer) -> None:
    answer = api.post("/tasks/t", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, BAD_BODIES[body])
    assert len(answer.json()["message"]) > 10
    assert log_of(shared_redis, "task:t") == []


def test_other_requests_are_refused(api: httpx.Client, shared_redis: RedisServer) -> None:
    typed = {"Content-Type": "text/plain"}
    assert api.post("/tasks/t", content=b'{"data":{}}', headers=typed).status_code == 415
    own_parent = api.post("/tasks/t", json={**update(a=1), "parent_id": "t"})
    assert (own_parent.status_code, own_parent.json()["code"]) == (422, "bad_options")
    assert (
        api.post("/batch", json={"updates": [{"task_id": "t", "data": {}}, {"task_id": "t", "data": 1}]}).status_code
        == 400
    )
    assert api.post("/tasks/t", json=update(text="x" * 4097)).status_code == 413
    assert api.post("/tasks/t", json=update(text="x" * 100_000)).status_code == 413
    assert api.post("/tasks/t", content=(b"x" * 1000 for _ in range(100))).status_code == 413
    for method, path, allowed in (
        ("PUT", "/tasks/t", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("GET", "/tasks/t/cancel", "OPTIONS, POST"),
        ("DELETE", "/tasks/t/history", "GET, HEAD, OPTIONS"),
        ("GET", "/batch", "OPTIONS, POST"),
        ("PATCH", "/general", "OPTIONS, POST"),
        ("GET", "/channels/news", "OPTIONS, POST"),
    ):
        answer = api.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
        assert answer.headers["allow"] == allowed
    for path in ("/tasks/%ff", "/channels/%ff", "/channels/", "/tasks/"):
        assert api.post(path, json=update(a=1)).status_code == 400
    for path in ("/task", "/channel", "/task/cancel"):
        assert api.post(path, json=update(a=1)).status_code == 404
    assert log_of(shared_redis, "task:t") == []


def test_a_slow_body_is_given_up(relay: RelayServer) -> None:
    head = b"POST /api/tasks/t HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection(("127.0.0.1", relay.port), 20) as client:
        client.sendall(head + b"{")
        client.settimeout(20)
        received = b""
        while part := client.recv(65536):
            received += part
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"body_timeout" in received


def test_slow_bodies_hold_no_turn(relay: RelayServer, api: httpx.Client) -> None:
    head = b"POST /api/tasks/t HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{"
    slow = [socket.create_connection(("127.0.0.1", relay.port), 20) for _ in range(12)]
    try:
        for client in slow:
            client.sendall(head)
        assert api.get("/tasks").status_code == 200
    finally:
        for client in slow:
            client.close()


FOREIGN = [
    {"X-Forwarded-For": "203.0.113.9"},
    {"Forwarded": "for=203.0.113.9"},
    {"Host": "relay.example"},
    {"Host": "rebound.example:80", "Origin": "http://rebound.example:80"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_without_credentials_only_this_machine_writes(
    headers: dict[str, str], api: httpx.Client, shared_redis: RedisServer
) -> None:
    for path in ("/tasks/t", "/general", "/channels/news"):
        answer = api.post(path, json=update(a=1), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "local_only")
    assert api.post("/batch", json={"updates": [{"task_id": "t", "data": {}}]}, headers=headers).status_code == 403
    assert api.post("/tasks/t/cancel", headers=headers).status_code == 403
    assert api.delete("/tasks/t", headers=headers).status_code == 403
    assert log_of(shared_redis, "task:t") == []


def test_a_page_of_the_relay_itself_may_write(relay: RelayServer, api: httpx.Client) -> None:
    headers = {"Origin": f"http://127.0.0.1:{relay.port}", "Sec-Fetch-Site": "same-origin"}
    assert api.post("/tasks/t", json=update(a=1), headers=headers).status_code == 200


def test_history_page_by_page(api: httpx.Client) -> None:
    for number in range(7):
        api.post("/tasks/t", json=update(progress=number))
    seen: list[int] = []
    since, pages = "", 0
    while True:
        page = api.get("/tasks/t/history", params={"limit": 3} | ({"since": since} if since else {})).json()
        seen += [each["data"]["progress"] for each in page["updates"]]
        pages += 1
        since = page["next"]
        if since is None:
            break
    assert (seen, pages) == (list(range(7)), 3)
    top = page["position"]
    at_top = f"{top['epoch']}:{top['offset']}"
    assert api.get("/tasks/t/history", params={"since": at_top}).json()["updates"] == []
    gone = api.get("/tasks/t/history", params={"since": "0123456789ab:3"})
    assert (gone.status_code, gone.json()["code"]) == (410, "history_gone")
    assert api.get("/tasks/none/history").status_code == 404
    for bad in ("since=3", "since=x:y", "since=:1", "limit=0", "limit=x", "limit=1001"):
        assert api.get(f"/tasks/t/history?{bad}").status_code == 400, bad


def test_a_task_is_deleted_for_all(api: httpx.Client, relay: RelayServer, shared_redis: RedisServer) -> None:
    first = api.post("/tasks/t", json={**update(status="in_progress", a=1), "owner": "u", "parent_id": "p"}).json()
    with relay.client("t") as watcher:
        assert watcher.receive()["data"]["a"] == 1
        assert api.delete("/tasks/t").status_code == 204
        assert watcher.receive()["data"] == {"deleted": True, "status": None, "a": None}
        assert api.get("/tasks/t").status_code == 404
        assert api.delete("/tasks/t").status_code == 404
        for query in ("", "?owner=u", "?parent=p"):
            assert api.get(f"/tasks{query}").json()["tasks"] == []
        again = api.post("/tasks/t", json=update(b=2)).json()
        assert again["position"]["epoch"] != first["position"]["epoch"]
        assert watcher.receive()["data"] == {"b": 2}
    assert state_of(shared_redis, "t") == {"b": 2}


def test_tasks_are_found_by_what_they_are(api: httpx.Client) -> None:
    for task_id, fields, options in (
        ("a", {"status": "in_progress", "kind": "film", "title": "The Sea"}, {"owner": "user:7"}),
        ("b", {"status": "completed", "kind": "film", "title": "The Land"}, {"owner": ["user:8", "group:x"]}),
        ("c", {"status": "completed", "kind": "song", "message": "by the sea"}, {"parent_id": "a"}),
    ):
        assert api.post(f"/tasks/{task_id}", json={"data": fields, **options}).status_code == 200
    for query, expected in {
        "owner=user:7": "a",
        "owner=user:7,group:x": "ab",
        "kind=film": "ab",
        "kind=film&status=completed": "b",
        "parent=a": "c",
        "text=SEA": "ac",
        "text=nothing": "",
        "kind=": "abc",
    }.items():
        found = api.get(f"/tasks?{query}").json()["tasks"]
        assert sorted(task["task_id"] for task in found) == list(expected), query
    api.post("/tasks/large", json=update(title="x" * 3000 + " sea", status="y" * 900))
    assert sorted(task["task_id"] for task in api.get("/tasks?text=sea").json()["tasks"]) == ["a", "c", "large"]
    for bad in ("owner=" + "x" * 256, "kind=" + ",".join(map(str, range(17))), "text=" + "x" * 256):
        assert api.get(f"/tasks?{bad}").status_code == 400


def test_a_cancel_is_noted_and_says_what_it_did(api: httpx.Client, shared_redis: RedisServer) -> None:
    assert api.post("/tasks/t/cancel").status_code == 404
    api.post("/tasks/t", json=update(status="in_progress"))
    with shared_redis.client() as client, client.pubsub() as pubsub:
        pubsub.subscribe("relay:cancel")
        answer = api.post("/tasks/t/cancel", json={"reason": "too slow"})
        assert (answer.status_code, answer.json()) == (202, {"task_id": "t", "outcome": "cancel_requested"})
        messages: Any = eventually(lambda: list(iter(lambda: pubsub.get_message(timeout=0.1), None))[-1:])
    assert api.get("/tasks/t").json()["cancel_requested"] == {"reason": "too slow"}
    assert json.loads(messages[0]["data"]) == {"task_id": "t", "reason": "too slow"}
    api.post("/tasks/t", json=update(status="cancelled"))
    answer = api.post("/tasks/t/cancel")
    assert (answer.status_code, answer.json()["outcome"]) == (200, "ended_before")
    assert api.post("/tasks/t/cancel", json={"reason": "x" * 501}).status_code == 400
