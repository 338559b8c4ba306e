"""Clients with grants in any order of events, on a real relay: none receives a byte of a task outside its grant, or misses one
inside it.

``RELAY_MODEL_EXAMPLES=500 pytest tests/integration/auth/test_grants_model.py`` runs for long.
"""

import json
import os
import urllib.request
from contextlib import ExitStack
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from relay_wire.revocations import revoke_call
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import StartRelay
from tests.harness import PATIENCE, Client, RedisServer, RelayServer
from tests.integration.auth.tokens import SETTINGS, bearer, call, token

EXAMPLES = int(os.environ.get("RELAY_MODEL_EXAMPLES", "2"))

TASKS = ("a", "b", "c")
SOME_TASKS = st.sets(st.sampled_from(TASKS))


class Watcher:
    """A client, and what it may and should receive."""

    def __init__(self, client: Client, subject: str, granted: set[str]) -> None:
        self.client = client
        self.subject = subject
        self.granted = granted
        self.followed: set[str] = set()

    def token(self) -> str:
        scope = {"tasks": sorted(self.granted)}
        return token(relay={"watch": scope, "list": scope}, sub=self.subject)

    def received(self) -> list[Any]:
        """Everything that comes until the relay answers what is asked now."""
        self.client.send({"type": "ping"})
        messages: list[Any] = []
        while (message := self.client.receive())["type"] != "pong":
            messages.append(message)
        return messages

    def close_code(self) -> int:
        try:
            while True:
                self.client.receive()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 1006


class Grants(RuleBasedStateMachine):
    """Watchers of three tasks, beside one that may see all of them."""

    count = 0

    def __init__(self, relay: RelayServer, redis: RedisServer) -> None:
        super().__init__()
        self.relay, self.redis = relay, redis
        self.stack = ExitStack()
        self.watchers: list[Watcher] = []
        self.latest: dict[str, int] = {}
        Grants.count += 1
        # Ids of their own for each example, so that none begins with another's states.
        self.ids = {task: f"{task}{Grants.count}" for task in TASKS}
        self.witness = self.connected(set(TASKS))
        for task in TASKS:
            self.subscribed(self.witness, task)
        self.watchers.remove(self.witness)

    def teardown(self) -> None:
        self.stack.close()

    def connected(self, tasks: set[str], seconds: float = 600) -> Watcher:
        Grants.count += 1
        connection = self.stack.enter_context(connect(self.relay.url, open_timeout=PATIENCE))
        granted = {self.ids[task] for task in tasks}
        watcher = Watcher(Client(connection), f"user:{Grants.count}", granted)
        text = token({"tasks": sorted(granted)}, sub=watcher.subject, seconds=seconds)
        watcher.client.send({"type": "authenticate", "token": text})
        assert watcher.client.receive()["type"] == "authenticated"
        self.watchers.append(watcher)
        return watcher

    def subscribed(self, watcher: Watcher, task: str) -> None:
        task_id = self.ids[task]
        watcher.client.send({"type": "subscribe", "task_id": task_id})
        messages = watcher.received()
        if task_id not in watcher.granted:
            assert [(each["type"], each["code"]) for each in messages] == [("error", "forbidden")]
            return
        expected: list[Any] = [{"type": "subscribed", "task_id": task_id}]
        if task_id in self.latest and task_id not in watcher.followed:
            expected.append({"type": "task_update", "task_id": task_id, "data": {"n": self.latest[task_id]}})
        assert messages == expected
        watcher.followed.add(task_id)

    def watcher(self, index: int) -> Watcher:
        return self.watchers[index % len(self.watchers)]

    @precondition(lambda self: len(self.watchers) < 4)
    @rule(tasks=SOME_TASKS)
    def connect(self, tasks: set[str]) -> None:
        self.connected(tasks)

    @precondition(lambda self: self.watchers)
    @rule(index=st.integers(0, 3), task=st.sampled_from(TASKS))
    def subscribe(self, index: int, task: str) -> None:
        self.subscribed(self.watcher(index), task)

    @rule(task=st.sampled_from(TASKS), number=st.integers(0, 99))
    def publish(self, task: str, number: int) -> None:
        task_id = self.ids[task]
        self.redis.publish_task(task_id, n=number)
        self.latest[task_id] = number
        update = {"type": "task_update", "task_id": task_id, "data": {"n": number}}
        assert self.witness.client.receive() == update  # in the same turn as all others
        for watcher in self.watchers:
            assert watcher.received() == ([update] if task_id in watcher.followed else [])

    @precondition(lambda self: self.watchers)
    @rule(index=st.integers(0, 3), tasks=SOME_TASKS)
    def renew(self, index: int, tasks: set[str]) -> None:
        watcher = self.watcher(index)
        watcher.granted = {self.ids[task] for task in tasks}
        watcher.client.send({"type": "authenticate", "token": watcher.token()})
        *ended, answer = watcher.received()
        assert answer["type"] == "authenticated"
        assert {(each["code"], each["task_id"]) for each in ended} == {
            ("forbidden", task_id) for task_id in watcher.followed - watcher.granted
        }
        watcher.followed &= watcher.granted

    @precondition(lambda self: self.watchers)
    @rule(index=st.integers(0, 3))
    def revoke(self, index: int) -> None:
        watcher = self.watchers.pop(index % len(self.watchers))
        script, names, values = revoke_call("sub", watcher.subject, 600)
        old = watcher.token()
        with self.redis.client() as client:
            client.eval(script.source, len(names), *names, *values)
        assert watcher.close_code() == 4403
        assert call(self.relay, f"/api/tasks/{self.ids['a']}", bearer(old))[0] == 401

    @rule(tasks=SOME_TASKS)
    def expire(self, tasks: set[str]) -> None:
        watcher = self.connected(tasks, seconds=0.5)
        self.watchers.remove(watcher)
        assert watcher.close_code() == 4401

    @precondition(lambda self: self.watchers)
    @rule(index=st.integers(0, 3), task=st.sampled_from(TASKS))
    def ask_over_http(self, index: int, task: str) -> None:
        watcher, task_id = self.watcher(index), self.ids[task]
        headers = bearer(watcher.token())
        status, body = call(self.relay, f"/api/tasks/{task_id}", headers)
        if task_id not in watcher.granted:
            assert (status, body["code"]) == (403, "forbidden")
            assert call(self.relay, f"/events?task={task_id}", headers)[0] == 403
            return
        known = self.latest.get(task_id)
        assert (status, body.get("data")) == ((404, None) if known is None else (200, {"n": known}))
        if known is not None:
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.relay.port}/events?task={task_id}", headers=headers
            )
            with urllib.request.urlopen(request, timeout=PATIENCE) as stream:
                line = next(line for line in stream if line.startswith(b"data: "))
            assert json.loads(line[6:])["data"] == {"n": known}

    @precondition(lambda self: self.watchers)
    @rule(index=st.integers(0, 3))
    def list_over_http(self, index: int) -> None:
        watcher = self.watcher(index)
        status, page = call(self.relay, "/api/tasks", bearer(watcher.token()))
        assert (status, page["next"]) == (200, None)
        shown = {task["task_id"]: task["data"] for task in page["tasks"]}
        assert shown == {each: {"n": self.latest[each]} for each in watcher.granted & self.latest.keys()}

    @precondition(lambda self: self.watchers)
    @rule(index=st.integers(0, 3), task=st.sampled_from(TASKS))
    def share(self, index: int, task: str) -> None:
        """A link is a watcher of one task, which goes with its maker when that is revoked."""
        watcher, task_id = self.watcher(index), self.ids[task]
        status, link = call(self.relay, f"/api/tasks/{task_id}/share", bearer(watcher.token()), "POST")
        if task_id not in watcher.granted:
            assert (status, link["code"]) == (403, "forbidden")
            return
        for other in self.ids.values():
            expected = 403 if other != task_id else 200 if task_id in self.latest else 404
            assert call(self.relay, f"/api/tasks/{other}", bearer(link["token"]))[0] == expected
        assert call(self.relay, "/api/tasks", bearer(link["token"]))[1]["tasks"] == []


def test_no_order_of_events_shows_a_client_what_it_may_not_see(
    shared_redis: RedisServer, share_relay: StartRelay
) -> None:
    relay = share_relay(**SETTINGS)
    machine: Any = lambda: Grants(relay, shared_redis)  # noqa: E731 - Hypothesis takes any factory, and says it takes a class
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
