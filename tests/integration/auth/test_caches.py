"""With grants, no cache may keep an answer that depends on who asks."""

import httpx
import pytest

from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually
from tests.integration.auth.tokens import SETTINGS, bearer, token

MAY = bearer(token(relay={verb: {"tasks": ["demo"]} for verb in ("watch", "list", "publish")}))

ANSWERS = [
    ("GET", "/api/tasks", MAY, 200),
    ("GET", "/api/tasks/demo", MAY, 200),
    ("GET", "/api/tasks/demo/history", MAY, 200),
    ("GET", "/api/tasks/other", MAY, 403),
    ("GET", "/api/tasks/demo", {}, 401),
    ("GET", "/api/tasks?token=x", {}, 400),
    ("POST", "/api/ticket", MAY, 201),
    ("POST", "/api/tasks/demo/share", MAY, 201),
    ("POST", "/api/tasks/demo/heartbeat", MAY, 204),
    ("GET", "/api/nothing", MAY, 404),
    ("POST", "/.well-known/mercure", {"Content-Type": "application/x-www-form-urlencoded"}, 400),
    ("GET", "/events?task=other", MAY, 403),
    ("GET", "/events?task=demo", {}, 401),
]


def varies(answer: httpx.Response) -> set[str]:
    return {name.strip().lower() for name in answer.headers.get("vary", "").split(",")}


def test_answers_are_private(share_relay: StartRelay, shared_redis: RedisServer) -> None:
    relay = share_relay(**SETTINGS, allowed_origins="https://app.example", allowed_hosts="127.0.0.1")
    shared_redis.publish_task("demo", n=1)
    with httpx.Client(base_url=f"http://127.0.0.1:{relay.port}", timeout=20) as client:
        eventually(lambda: client.get("/api/tasks/demo", headers=MAY).status_code == 200)
        for method, path, headers, status in ANSWERS:
            answer = client.request(method, path, headers={**headers, "Origin": "https://app.example"})
            assert answer.status_code == status, (method, path, answer.text)
            assert {"authorization", "cookie", "x-api-key", "origin"} <= varies(answer), (method, path)
            if not path.startswith("/events"):
                assert answer.headers.get_list("cache-control") == ["private, no-store"], (method, path)
        tag = client.get("/api/tasks/demo", headers=MAY).headers["etag"]
        unchanged = client.get("/api/tasks/demo", headers={**MAY, "If-None-Match": tag})
        assert (unchanged.status_code, unchanged.headers["cache-control"]) == (304, "private, no-store")
        with client.stream("GET", "/events?task=demo", headers=MAY) as stream:
            assert stream.headers["cache-control"] == "private, no-store"
            assert "authorization" in varies(stream)


@pytest.mark.parametrize("path", ["/api/openapi.json", "/api/docs", "/relay-client.js"])
def test_what_is_the_same_for_everybody_may_be_kept(path: str, share_relay: StartRelay) -> None:
    answer = httpx.get(f"http://127.0.0.1:{share_relay(**SETTINGS).port}{path}")
    assert answer.headers["cache-control"] == "no-cache"
    assert "authorization" not in varies(answer)
