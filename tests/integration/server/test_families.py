"""A task followed together with its children, on real relays: one subscription, one position, and nothing that is missed."""

import json
from contextlib import ExitStack
from typing import Any

from relay_wire import keys

from tests.conftest import StartRelay
from tests.harness import Client, RedisServer, RelayServer, eventually
from tests.integration.auth.tokens import SETTINGS, bearer, call, token
from tests.integration.server.test_sse import events

Message = dict[str, Any]


def publish(
    server: RedisServer, task_id: str, parent: str | None = None, owner: str | None = None, **data: Any
) -> None:
    message: Message = {"task_id": task_id, "data": data}
    if parent is not None:
        message["parent_id"] = parent
    if owner is not None:
        message["owner"] = owner
    server.publish("task_updates", json.dumps(message))


def follow(client: Client, position: Any = None) -> Message:
    client.send({"type": "subscribe", "task_id": "p", "children": True, "position": position})
    return of_family(client)


def of_family(client: Client) -> Message:
    """The next message of the family; the roll-up of the parent comes when a relay gets to it."""
    while True:
        message: Message = client.receive()
        is_roll_up = message["type"] == "task_update" and list(message["data"]) == ["children"]
        if message["type"] != "general_update" and not is_roll_up:
            return message


def stands_at(relay: RelayServer, task_id: str, **fields: Any) -> None:
    """Wait until a plain publish was stored."""
    eventually(lambda: fields.items() <= json.loads(relay.get(f"/api/tasks/{task_id}")[1]).get("data", {}).items())


def test_a_parent_and_its_children_are_one_subscription_with_one_position(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relays = [start_relay(), start_relay()]
    publish(redis_server, "p", status="in_progress")
    publish(redis_server, "a", "p", status="in_progress", text={"$append": "on"})
    publish(redis_server, "stranger", status="in_progress")
    publish(redis_server, "a", text={"$append": "ce"})
    stands_at(relays[0], "a", text="once")
    with relays[0].client() as client:
        answer = follow(client)
        assert (answer["task_id"], answer["children"], answer["state"]) == ("p", True, True)
        states = of_family(client)
        assert states["type"] == "task_states"
        assert states["position"] == answer["position"]
        assert [task["task_id"] for task in states["tasks"]] == ["p", "a"]
        assert states["tasks"][1]["data"] == {"status": "in_progress", "text": "once"}
        publish(redis_server, "a", text={"$append": "!"})
        publish(redis_server, "p", stage="two")
        publish(redis_server, "b", "p", status="pending")
        publish(redis_server, "stranger", progress=1)
        publish(redis_server, "a", status="completed")
        seen = [of_family(client) for _ in range(4)]
    assert [(each["task_id"], each["data"]) for each in seen] == [
        ("a", {"text": {"$append": "!"}}),
        ("p", {"stage": "two"}),
        ("b", {"status": "pending"}),
        ("a", {"status": "completed"}),
    ]
    assert {each["family"] for each in seen} == {"p"}
    # Another relay resumes from the position of the second of them.
    publish(redis_server, "b", progress=50)
    stands_at(relays[1], "b", progress=50)
    with relays[1].client() as client:
        assert follow(client, seen[1]["position"])["recovered"] is True
        assert [of_family(client)["data"] for _ in range(3)] == [
            {"status": "pending"},
            {"status": "completed"},
            {"progress": 50},
        ]


def test_who_was_away_too_long_is_told_and_gets_all_states(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(history_size=5)
    publish(redis_server, "a", "p", n=0)
    stands_at(relay, "a", n=0)
    with relay.client() as client:
        position = follow(client)["position"]
        of_family(client)
    for n in range(1, 20):
        publish(redis_server, "a" if n % 2 else "b", "p", n=n)
    stands_at(relay, "a", n=19)
    with relay.client() as client:
        answer = follow(client, position)
        assert (answer["recovered"], answer["state"]) == (False, True)
        states = {task["task_id"]: task["data"] for task in of_family(client)["tasks"] if task["task_id"] != "p"}
        assert states == {"a": {"n": 19}, "b": {"n": 18}}


def test_a_family_that_redis_forgets_is_told_to_those_who_follow_it(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay()
    publish(redis_server, "a", "p", n=0)
    stands_at(relay, "a", n=0)
    with relay.client() as first:
        follow(first)
        of_family(first)
        with redis_server.client() as redis:
            assert redis.delete(keys.meta("family:p")) == 1
        publish(redis_server, "a", n=1)  # nobody is sent that
        stands_at(relay, "a", n=1)
        with relay.client() as second:  # reads the family, which begins again
            follow(second)
            assert of_family(second)["tasks"][-1]["data"] == {"n": 1}
            publish(redis_server, "a", n=2)
            kinds = [n_reached(client, 2) for client in (first, second)]
    assert "task_states" in kinds[0]


def n_reached(client: Client, n: int) -> list[str]:
    """Receive until the child's field is known to have a value. Return the types of what came."""
    kinds: list[str] = []
    while True:
        message = of_family(client)
        kinds.append(message["type"])
        tasks = [message] if message["type"] == "task_update" else message.get("tasks", [])
        if any(task["task_id"] == "a" and task["data"].get("n") == n for task in tasks):
            return kinds


def test_event_streams_have_families_too(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    publish(redis_server, "a", "p", n=0)
    stands_at(relay, "a", n=0)
    with events(relay, "task=p&children=1") as stream:
        kind, message = stream.next()[:2]
        assert kind == "task_states"
        assert message["tasks"][-1] == {"task_id": "a", "data": {"n": 0}}
        publish(redis_server, "a", n=1)
        kind, message = stream.next()[:2]
        assert (kind, message["task_id"], message["data"]) == ("task_update", "a", {"n": 1})


def test_a_family_that_nobody_follows_costs_redis_nothing_to_keep(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay()
    publish(redis_server, "a", "p", n=0)
    stands_at(relay, "a", n=0)
    with redis_server.client() as redis:
        assert redis.keys("relay:{family}:*") == []


def test_a_child_that_a_client_may_not_watch_does_not_exist_for_it(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay(**SETTINGS)
    publish(redis_server, "p", owner="ann", status="in_progress")
    publish(redis_server, "a", "p", owner="ann", n=0)
    publish(redis_server, "b", "p", owner="bob", n=0)
    publish(redis_server, "open-c", "p", n=0)
    admin = bearer(token({"all": True}))
    eventually(lambda: call(relay, "/api/tasks/open-c", admin)[0] == 200)
    grants: dict[str, dict[str, Any]] = {
        "ann": {"owned": True, "prefixes": ["open-"]},
        "bob": {"owned": True},
        "eve": {"all": True},
    }
    clients = {}
    with ExitStack() as stack:
        for name, grant in grants.items():
            client = clients[name] = stack.enter_context(relay.client())
            client.send({"type": "authenticate", "token": token(grant, sub=name)})
            assert client.receive()["type"] == "authenticated"
        answer = follow(clients["bob"])
        assert (answer["code"], answer["task_id"]) == ("forbidden", "p")
        assert follow(clients["ann"])["type"] == follow(clients["eve"])["type"] == "subscribed"
        assert sorted(each["task_id"] for each in of_family(clients["ann"])["tasks"]) == ["a", "open-c", "p"]
        assert sorted(each["task_id"] for each in of_family(clients["eve"])["tasks"]) == ["a", "b", "open-c", "p"]
        for n in (1, 2):
            publish(redis_server, "b", n=n)
            publish(redis_server, "a", n=n)
        seen = [of_family(clients["ann"]) for _ in range(2)]
        assert [(each["task_id"], each["data"]) for each in seen] == [("a", {"n": 1}), ("a", {"n": 2})]
        assert [of_family(clients["eve"])["task_id"] for _ in range(4)] == ["b", "a", "b", "a"]
        # A task that she is given is all there for her, and one that she loses sends her nothing more.
        publish(redis_server, "b", owner="ann", stage="x")
        assert of_family(clients["ann"])["data"] == {"n": 2, "stage": "x"}
        publish(redis_server, "a", owner="bob", n=3)
        publish(redis_server, "open-c", n=3)
        assert of_family(clients["ann"])["task_id"] == "open-c"
        client = stack.enter_context(relay.client())
        client.send({"type": "authenticate", "token": token(grants["ann"], sub="ann")})
        client.receive()
        assert follow(client, seen[0]["position"])["recovered"] is True
        missed = [of_family(client) for _ in range(3)]
        assert [each["task_id"] for each in missed] == ["a", "b", "open-c"]
        # Who owns the parent no longer follows its family.
        publish(redis_server, "p", owner="bob", stage="y")
        assert of_family(clients["ann"])["code"] == "forbidden"
