"""A text that grows, on real relays: clients see whole values or deltas, and in the end all of them have what was appended."""

import json
from typing import Any

from tests.conftest import StartRelay
from tests.harness import Client, RedisServer, eventually
from tests.integration.server.test_sse import events

PIECES = [f"piece {number} ü\n" for number in range(300)]
TEXT = "".join(PIECES)


def follow(client: Client, *, deltas: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Receive until the task has ended; return the data of all updates, and what they come to."""
    seen: list[dict[str, Any]] = []
    state: dict[str, Any] = {}
    while state.get("status") != "completed":
        message = client.receive()
        if message["type"] != "task_update":
            continue
        seen.append(message["data"])
        for name, value in message["data"].items():
            is_delta = isinstance(value, dict) and list(value) == ["$append"]
            assert deltas or not is_delta
            state[name] = state.get(name, "") + value["$append"] if is_delta else value
    return seen, state


def publish(server: RedisServer) -> None:
    for piece in PIECES:
        server.publish_task("t", text={"$append": piece}, n={"$append": 1})
    server.publish_task("t", status="completed")


def subscribe(client: Client, position: Any, *, deltas: bool) -> None:
    client.send({"type": "subscribe", "task_id": "t", "position": position, "deltas": deltas})
    assert client.receive()["type"] == "subscribed"


def test_every_client_has_the_whole_text_in_the_end(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relays = [start_relay(), start_relay()]
    with (
        relays[0].client("t") as whole,
        relays[1].client() as delta,
        relays[0].client() as positioned,
        relays[1].client() as positioned_whole,
    ):
        delta.send({"type": "subscribe", "task_id": "t", "deltas": True})
        assert delta.receive()["type"] == "subscribed"
        subscribe(positioned, None, deltas=True)
        subscribe(positioned_whole, None, deltas=False)
        publish(redis_server)
        expected = {"text": TEXT, "n": len(PIECES), "status": "completed"}
        for client, deltas in ((whole, False), (delta, True), (positioned, True), (positioned_whole, False)):
            seen, state = follow(client, deltas=deltas)
            assert state == expected
            if not deltas:
                assert len(seen) < len(PIECES) / 2  # whole values are not sent for each delta
                assert seen[-1] == {"status": "completed"}  # the end is an update of its own
    eventually(lambda: json.loads(relays[0].get("/api/tasks/t")[1])["data"] == expected)
    with relays[0].client("t") as late:
        assert late.receive()["data"] == expected


def test_who_resumes_in_the_middle_gets_what_is_missing(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relays = [start_relay(), start_relay()]
    for piece in PIECES[:10]:
        redis_server.publish_task("t", text={"$append": piece})
    eventually(lambda: json.loads(relays[0].get("/api/tasks/t")[1]).get("position", {}).get("offset") == 10)
    with relays[0].client() as client:
        subscribe(client, None, deltas=True)
        first = client.receive()
    assert first["data"]["text"] == "".join(PIECES[:10])
    for piece in PIECES[10:20]:
        redis_server.publish_task("t", text={"$append": piece})
    redis_server.publish_task("t", status="completed")
    eventually(lambda: json.loads(relays[1].get("/api/tasks/t")[1])["position"]["offset"] == 21)
    with relays[1].client() as delta, relays[1].client() as whole:
        subscribe(delta, first["position"], deltas=True)
        seen, state = follow(delta, deltas=True)
        assert [data.get("text") for data in seen[:10]] == [{"$append": piece} for piece in PIECES[10:20]]
        subscribe(whole, first["position"], deltas=False)
        _, state = follow(whole, deltas=False)
        assert state["text"] == "".join(PIECES[:20])


def test_event_streams_have_both_forms(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    redis_server.publish_task("t", text={"$append": "a"})
    eventually(lambda: '"a"' in relay.get("/api/tasks/t")[1])
    with events(relay, "task=t&deltas=1") as deltas, events(relay, "task=t") as whole:
        texts = [[stream.next()[1]["data"]["text"]] for stream in (deltas, whole)]
        redis_server.publish_task("t", text={"$append": "b"})
        for seen, stream in zip(texts, (deltas, whole), strict=True):
            seen.append(stream.next()[1]["data"]["text"])
    assert texts == [["a", {"$append": "b"}], ["a", "ab"]]
