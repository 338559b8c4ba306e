"""A task that nobody follows yet, by each way in: its owner gets it, and for everyone else it does not exist."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from websockets.sync.client import connect

from tests.conftest import StartRelay
from tests.harness import PATIENCE, Client, RedisServer, RelayServer
from tests.integration.auth.tokens import SETTINGS, bearer, call, token

SCOPE = {"owned": True}
NAMESPACES = json.dumps([{"name": "task", "presence": True, "allow_publish_for_client": True}])


_http = httpx.Client(timeout=PATIENCE, verify=False)  # to read the system's certificates takes longer than the test


class Visitor:
    """Somebody whose grant is for what it owns."""

    def __init__(self, relay: RelayServer, subject: str) -> None:
        self.relay = relay
        scopes = dict.fromkeys(("watch", "list", "publish"), SCOPE)
        self.token = token(sub=subject, relay=scopes)
        #: Of a client without a user: all others may publish where a namespace allows it.
        self.token_of_group = token(groups=[subject], relay=scopes)

    def stream(self, path: str) -> str:
        """The status of an event stream, and its first event with data."""
        url = f"http://127.0.0.1:{self.relay.port}{path}"
        with _http.stream("GET", url, headers=bearer(self.token)) as response:
            lines = (
                response.iter_lines() if response.status_code == 200 else iter([f"data: {response.read().decode()}"])
            )
            return f"{response.status_code} {next((line for line in lines if line.startswith('data: ')), 'nothing')}"

    def http(self, path: str, method: str = "GET", body: Any = None) -> str:
        return str(call(self.relay, path, bearer(self.token), method, body))

    def socket(self, command: dict[str, Any]) -> str:
        """What a client of `/ws/tasks` receives for a command."""
        with connect(self.relay.url, additional_headers=bearer(self.token), open_timeout=PATIENCE) as connection:
            client = Client(connection)
            client.send(command)
            client.send({"type": "ping"})
            received = []
            while (message := client.receive())["type"] != "pong":
                received.append(message)
            return str(received)

    def centrifuge(self, command: dict[str, Any], text: str = "") -> str:
        """What a client of the Centrifuge protocol is answered."""
        url = f"ws://127.0.0.1:{self.relay.port}/connection/websocket"
        with connect(url, open_timeout=PATIENCE) as connection:
            connection.send(json.dumps({"id": 1, "connect": {"token": text or self.token}}))
            connection.send(json.dumps({"id": 2, **command}))
            while '"id":2' not in (answer := str(connection.recv(PATIENCE))):
                pass
            return answer.replace(" ", "")


#: What is asked for a task by each way in. What the owner gets has the task's field, or what stands behind the way.
WAYS: dict[str, tuple[Callable[[Visitor, str], str], str]] = {
    "/ws/tasks": (lambda who, task: who.socket({"type": "subscribe", "task_id": task}), "'n': 7"),
    "/ws/tasks with children": (
        lambda who, task: who.socket({"type": "subscribe", "task_id": task, "children": True, "position": None}),
        "'n': 7",
    ),
    "/events": (lambda who, task: who.stream(f"/events?task={task}"), '"n":7'),
    "/events with children": (lambda who, task: who.stream(f"/events?task={task}&children=1"), '"n":7'),
    "/events?subscribe": (
        lambda who, task: who.stream(f"/events?subscribe={quote(json.dumps([{'task_id': task, 'position': None}]))}"),
        "subscribed",
    ),
    "/api/tasks/{id}": (lambda who, task: who.http(f"/api/tasks/{task}"), "'n': 7"),
    "history": (lambda who, task: who.http(f"/api/tasks/{task}/history"), "'n': 7"),
    "list": (lambda who, task: who.http(f"/api/tasks?text={task}"), "'n': 7"),
    "share": (lambda who, task: who.http(f"/api/tasks/{task}/share", "POST"), "(201"),
    "Mercure": (lambda who, task: who.stream(f"/.well-known/mercure?topic=task:{task}"), '"n":7'),
    "Centrifuge": (lambda who, task: who.centrifuge({"subscribe": {"channel": f"task:{task}"}}), '"n":7'),
    "Centrifuge, history": (
        lambda who, task: who.centrifuge({"history": {"channel": f"task:{task}", "limit": 10}}),
        '"n":7',
    ),
    "Centrifuge, presence": (
        lambda who, task: who.centrifuge({"presence_stats": {"channel": f"task:{task}"}}),
        '"num_clients":0',
    ),
    "heartbeat": (lambda who, task: who.http(f"/api/tasks/{task}/heartbeat", "POST"), "(204"),
    "publish": (lambda who, task: who.http(f"/api/tasks/{task}", "POST", {"data": {"n": 8}}), "(200"),
    "Centrifuge, publish": (
        lambda who, task: who.centrifuge(
            {"publish": {"channel": f"task:{task}", "data": {"n": 8}}}, who.token_of_group
        ),
        '"publish":{}',
    ),
}


def test_each_way_in(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS, channel_namespaces=NAMESPACES)
    ann, bob = Visitor(relay, "ann"), Visitor(relay, "bob")
    creator = bearer(token(relay={"publish": {"all": True}}))

    def kept() -> dict[bytes, bytes | None]:
        """What Redis has of channels, and the indexes of tasks; the rest is what relays write for themselves."""
        with shared_redis.client() as redis:
            names = [name for name in redis.keys("relay:{*") if not name.endswith(b":generation")]
            with redis.pipeline() as pipeline:
                for name in names:
                    pipeline.dump(name)
                return dict(zip(names, pipeline.execute(), strict=True))

    for number, (way, (ask, shown)) in enumerate(WAYS.items()):
        task, missing = f"owned-{number}", f"gone--{number}"
        body = {"data": {"n": 7}, "owner": "ann"}
        assert call(relay, f"/api/tasks/{task}", creator, "POST", body)[0] == 200
        before = kept()
        refused = ask(bob, task)
        assert refused.replace(task, missing) == ask(bob, missing), f"{way}: he can tell that it exists"
        assert shown not in refused, way
        assert kept() == before, f"{way}: to ask is not to write"
        assert shown in ask(ann, task), way


@pytest.mark.parametrize("subject", ["ann", "bob"])
def test_an_owner_whose_task_ended_long_ago_has_its_history(
    subject: str, shared_redis: RedisServer, share_relay: StartRelay
) -> None:
    relay = share_relay(**SETTINGS, channel_namespaces=NAMESPACES)
    body = {"data": {"n": 7}, "owner": "ann"}
    assert call(relay, "/api/tasks/t", bearer(token(relay={"publish": {"all": True}})), "POST", body)[0] == 200
    with shared_redis.client() as redis:
        assert redis.delete(*redis.keys("*task:t:state")) == 1, "as when it expires"
    visitor = Visitor(relay, subject)
    answers = [WAYS["history"][0](visitor, "t"), WAYS["Centrifuge, history"][0](visitor, "t")]
    assert all(("7" in answer) is (subject == "ann") for answer in answers), answers
    published = [WAYS[way][0](visitor, "t") for way in ("publish", "Centrifuge, publish")]
    assert all("orbidden" in answer or "permission" in answer for answer in published), "it would be nobody's"
