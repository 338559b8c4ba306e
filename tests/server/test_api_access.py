"""Who may publish, cancel and delete over HTTP, by the grant that a request shows."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from quart_trio import QuartTrio
from relay_wire.position import Position

from relay.broker.client_publishes import Publication, Published
from relay.core.channels import ChannelPatterns
from relay.core.errors import RelayError
from relay.core.grant_claims import read_compact
from relay.core.grants import EVERYTHING, Grant
from relay.server.api_errors import add_error_handlers
from relay.server.api_publish import Publisher, add_publish_api
from relay.server.api_task_actions import add_task_actions
from relay.server.retry_route import add_retry_route
from relay.server.task_paths import SCOPE_KEY, TaskPaths

PATHS = TaskPaths("/api")

#: Who owns each task that exists.
OWNERS = {"mine": frozenset({"me"}), "yours": frozenset({"you"}), "nobodys": frozenset[str]()}


class World:
    """An app whose client has a grant, and whose Redis notes what is published."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.published: list[Publication] = []
        self.done: list[str] = []
        self.app = QuartTrio("test")
        self.charged: list[int] = []
        self.retry_after: float | None = None
        running = SimpleNamespace(access=self, tasks=self, publishes=self, admission=self)
        relay: Any = SimpleNamespace(running=running)
        add_error_handlers(self.app, PATHS, lambda _status, _code, _message: None)
        add_publish_api(self.app, PATHS, Publisher(relay, ChannelPatterns(["news*"]), 1000))
        add_task_actions(self.app, relay, PATHS)
        add_retry_route(self.app, relay, PATHS)

    async def grant_of_request(self, request: object) -> Grant:
        return self.grant

    def limit_subject(self, grant: Grant, updates: int) -> float | None:
        self.charged.append(updates)
        return self.retry_after

    async def owners(self, task_ids: Sequence[str]) -> dict[str, frozenset[str] | None]:
        return {task_id: OWNERS.get(task_id) for task_id in task_ids}

    async def publish(
        self, publications: Sequence[Publication], traceparent: str | None = None
    ) -> list[Published | RelayError]:
        self.published += publications
        return [Published(Position("e", 1), False) for _ in publications]

    async def request_cancel(self, task_id: str, reason: str) -> str:
        self.done.append(f"cancel {task_id}")
        return "requested"

    async def delete(self, task_id: str) -> bool:
        self.done.append(f"delete {task_id}")
        return True

    async def send(self, method: str, route: str, body: Any = None, **scope: Any) -> tuple[int, str | None]:
        client = self.app.test_client()
        options = {} if body is None else {"json": body}
        answer = await client.open(route, method=method, scope_base=scope, headers={"Host": "relay.example"}, **options)
        content = await answer.get_data(as_text=False)
        return answer.status_code, (json.loads(content) if content else {}).get("code")

    async def update(self, task_id: str, **options: Any) -> tuple[int, str | None]:
        return await self.send("POST", PATHS.task_route, {"data": {"a": 1}, **options}, **{SCOPE_KEY: task_id})


def world(scopes: str) -> World:
    return World(Grant(read_compact(scopes), subject="me", groups=frozenset({"group:x"})))


async def test_only_what_the_grant_covers() -> None:
    client = world(
        "publish:task:demo publish:prefix:order-7/ publish:general publish:channel:news watch:all cancel:all"
    )
    assert await client.update("demo") == (200, None)
    assert await client.update("order-7/x") == (200, None)
    for task_id in ("other", "mine", "yours"):
        assert await client.update(task_id) == (403, "forbidden")
    assert await client.send("POST", PATHS.general_route, {"data": {}}) == (200, None)
    announcement = {"data": {"type": "task_created", "task_info": {"task_id": "other", "a": 1}}}
    assert await client.send("POST", PATHS.general_route, announcement) == (403, "forbidden")
    assert await client.send("DELETE", PATHS.task_route, **{SCOPE_KEY: "other"}) == (403, "forbidden")
    assert await client.send("POST", PATHS.cancel_route, **{SCOPE_KEY: "other"}) == (202, None)
    assert await client.send("POST", PATHS.retry_route, **{SCOPE_KEY: "other"}) == (403, "forbidden")
    assert [publication.channel for publication in client.published] == ["task:demo", "task:order-7/x", "general"]
    assert client.done == ["cancel other"]


async def test_an_owner_writes_to_its_own_tasks_and_creates_them() -> None:
    client = world("publish:owned cancel:owned")
    assert await client.update("mine") == (200, None)
    assert await client.update("new", owner="me") == (200, None)
    assert await client.update("new", owner=["you", "group:x"]) == (200, None)
    for task_id, options in (
        ("yours", {}),
        ("yours", {"owner": "me"}),
        ("nobodys", {"owner": "me"}),
        ("new", {}),
        ("new", {"owner": "you"}),
    ):
        assert await client.update(task_id, **options) == (403, "forbidden"), (task_id, options)
    for task_id, status in (("mine", 202), ("yours", 403), ("new", 403)):
        assert (await client.send("POST", PATHS.cancel_route, **{SCOPE_KEY: task_id}))[0] == status
    assert (await client.send("DELETE", PATHS.task_route, **{SCOPE_KEY: "mine"}))[0] == 204
    assert client.done == ["cancel mine", "delete mine"]


async def test_a_child_needs_the_right_to_its_parent() -> None:
    client = world("publish:owned")
    assert await client.update("new", owner="me", parent_id="mine") == (200, None)
    assert await client.update("new", owner="me", parent_id="yours") == (403, "forbidden")
    assert await client.update("new", owner="me", parent_id="none") == (403, "forbidden")


async def test_a_batch_publishes_what_is_allowed() -> None:
    client = world("publish:owned publish:task:demo")
    updates: list[dict[str, Any]] = [{"task_id": task_id, "data": {}} for task_id in ("demo", "mine", "yours")]
    test_client = client.app.test_client()
    answer = await test_client.post(PATHS.batch_route, json={"updates": updates})
    results = (await answer.get_json())["results"]
    assert answer.status_code == 207
    assert [result.get("error", {}).get("code") for result in results] == [None, None, "forbidden"]
    assert [publication.channel for publication in client.published] == ["task:demo", "task:mine"]


@pytest.mark.parametrize("route", [PATHS.task_route, PATHS.cancel_route, PATHS.retry_route])
async def test_without_configured_credentials_only_this_machine_writes(route: str) -> None:
    client = World(EVERYTHING)
    body: Any = {"data": {}} if route == PATHS.task_route else None
    assert await client.send("POST", route, body, **{SCOPE_KEY: "t"}) == (403, "local_only")
    assert (client.published, client.done) == ([], [])


async def test_a_subject_that_sends_too_much_is_told_when_to_go_on() -> None:
    client = world("publish:all")
    assert await client.update("t") == (200, None)
    updates = [{"task_id": "t", "data": {}}] * 3
    assert (await client.send("POST", PATHS.batch_route, {"updates": updates}))[0] == 200
    assert client.charged == [1, 3]
    client.retry_after = 2.5
    scope: Any = {SCOPE_KEY: "t"}
    answer = await client.app.test_client().post(PATHS.task_route, json={"data": {}}, scope_base=scope)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert len(client.published) == 4


async def test_keys_of_two_clients_are_two_keys() -> None:
    names = set()
    for subject in ("me", "you", None):
        client = World(Grant(read_compact("publish:all"), subject=subject))
        test_client = client.app.test_client()
        headers = {"Idempotency-Key": "k"}
        scope: Any = {SCOPE_KEY: "t"}
        answer = await test_client.post(PATHS.task_route, json={"data": {}}, headers=headers, scope_base=scope)
        assert answer.status_code == 200
        names.add(client.published[0].key)
    assert len(names) == 3
