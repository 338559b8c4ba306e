"""Each verb of a token allows its operations of the HTTP API for its tasks, and no other operation, and no other task."""

from typing import Any

import pytest

from tests.conftest import StartRelay
from tests.harness import RedisServer, RelayServer, eventually
from tests.integration.auth.tokens import SETTINGS, bearer, call, token

UPDATE = {"data": {"status": "in_progress"}}

#: The operations on a task: method, what the path ends with, the body, and the verb that they need.
OPERATIONS: list[tuple[str, str, Any, str]] = [
    ("GET", "", None, "watch"),
    ("GET", "/history", None, "watch"),
    ("POST", "/share", None, "watch"),
    ("POST", "", UPDATE, "publish"),
    ("POST", "/heartbeat", None, "publish"),
    ("POST", "/cancel", None, "cancel"),
    ("DELETE", "", None, "publish"),
]
SCOPES: list[dict[str, Any]] = [{"tasks": ["film-1"]}, {"prefixes": ["film-1"]}, {"owned": True}]


@pytest.fixture
def relay(share_relay: StartRelay, shared_redis: RedisServer) -> RelayServer:
    """A relay with a task of Ann's, and one of Bob's."""
    relay = share_relay(**SETTINGS, extra_channels="news")
    for task_id, owner in (("film-1", "ann"), ("song-1", "bob")):
        assert created(relay, task_id, owner)[0] == 200
    return relay


def created(relay: RelayServer, task_id: str, owner: str) -> tuple[int, Any]:
    body = {**UPDATE, "owner": owner}
    return call(relay, f"/api/tasks/{task_id}", bearer(token(relay={"publish": {"all": True}})), "POST", body)


@pytest.mark.parametrize("verb", ["watch", "list", "publish", "cancel", "revoke"])
def test_a_verb_allows_its_operations(verb: str, relay: RelayServer) -> None:
    for scope in SCOPES:
        headers = bearer(token(relay={verb: scope}, sub="ann"))
        for method, below, body, needed in OPERATIONS:
            status, answer = call(relay, f"/api/tasks/film-1{below}", headers, method, body)
            assert (status < 300) is (verb == needed), (scope, method, below, answer)
            assert status < 300 or (status, answer["code"]) == (403, "forbidden")
            for other in ("song-1", "no-such"):
                answers = call(relay, f"/api/tasks/{other}{below}", headers, method, body)
                assert answers[0] == 403, (scope, method, below, other, answers)
                assert answers[1]["code"] == "forbidden"
            if method == "DELETE" and status < 300:
                assert created(relay, "film-1", "ann")[0] == 200
        listed = call(relay, "/api/tasks", headers)[1]["tasks"]
        assert [task["task_id"] for task in listed] == (["film-1"] if verb == "list" else [])
        assert call(relay, "/api/revoke", headers, "POST", {"sub": "bob"})[0] == 403, "only who may end all grants"


def test_what_else_may_be_published(relay: RelayServer) -> None:
    all_but = {"publish": {"tasks": ["film-1"]}}
    for scope, path in (({"general": True}, "/api/general"), ({"channels": ["news"]}, "/api/channels/news")):
        assert call(relay, path, bearer(token(relay={"publish": scope})), "POST", {"data": {"n": 1}})[0] == 200
        assert call(relay, path, bearer(token(relay=all_but)), "POST", {"data": {"n": 1}})[0] == 403
        assert call(relay, path, bearer(token({"all": True})), "POST", {"data": {"n": 1}})[0] == 403
    # Of a batch, each update is decided on its own.
    updates = [{"task_id": each, **UPDATE} for each in ("film-1", "song-1")] + [{"channel": "news", "data": {"n": 1}}]
    status, answer = call(relay, "/api/batch", bearer(token(relay=all_but)), "POST", {"updates": updates})
    assert status == 207
    assert [result.get("error", {}).get("code") for result in answer["results"]] == [None, "forbidden", "forbidden"]


def test_who_publishes_owned_tasks_creates_them_for_themselves_only(relay: RelayServer) -> None:
    ann = bearer(token(relay={"publish": {"owned": True}, "watch": {"owned": True}}, sub="ann"))
    assert call(relay, "/api/tasks/new-1", ann, "POST", {**UPDATE, "owner": "ann"})[0] == 200
    assert call(relay, "/api/tasks/new-1", ann)[0] == 200
    for body in (UPDATE, {**UPDATE, "owner": "bob"}):
        assert call(relay, "/api/tasks/new-2", ann, "POST", body)[0] == 403
    assert call(relay, "/api/tasks/song-1", ann, "POST", {**UPDATE, "owner": "ann"})[0] == 403, "it is Bob's"
    assert call(relay, "/api/tasks/new-3", ann, "POST", {**UPDATE, "owner": "ann", "parent_id": "song-1"})[0] == 403
    assert call(relay, "/api/tasks/new-1", ann, "POST", {**UPDATE, "owner": ["bob"]})[0] == 200, "given away"
    eventually(lambda: call(relay, "/api/tasks/new-1", ann)[0] == 403)
