"""Clients with grants by each way in, in any order of events, on a real relay: none receives a byte of a task outside its
grant, or misses one inside it.

``RELAY_MODEL_EXAMPLES=200 pytest tests/integration/auth/test_grants_model.py`` runs for long.
"""

import json
import os
from collections.abc import Collection
from typing import Any

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from relay_client import Publisher
from relay_wire.revocations import revoke_call

from tests.conftest import StartRelay
from tests.harness import PATIENCE, RedisServer, RelayServer
from tests.integration.auth.tokens import SETTINGS, bearer, call, token
from tests.integration.auth.ways import FENCE, WAYS, CentrifugeSocket, Follower, Gone, Received, TasksSocket

EXAMPLES = int(os.environ.get("RELAY_MODEL_EXAMPLES", "3"))
STEPS = 20

TASKS = ("a", "b", "c")
SOME_TASKS = st.sets(st.sampled_from(TASKS))
A_TASK = st.sampled_from(TASKS)
INDEX = st.integers(0, 4)

#: Connections at once, beside the witness.
MAX_CLIENTS = 5

#: By these a client publishes with its own grant. The plain PUBLISH is that of a service.
PUBLISHING = ("PUBLISH", "API", "batch", "Mercure", "Centrifuge")

NAMESPACES = json.dumps([{"name": "task", "allow_publish_for_client": True}])


class User:
    """A user with one client, and what it may and should receive."""

    def __init__(self, follower: Follower, subject: str, granted: set[str]) -> None:
        self.follower = follower
        self.subject = subject
        self.granted = granted
        self.followed: set[str] = set()
        #: Of each task that it followed before it went: how many updates there were then.
        self.seen: dict[str, int] = {}

    def token(self, seconds: float = 600) -> str:
        scope = {"tasks": sorted({*self.granted, FENCE})}
        return token(relay={"watch": scope, "list": scope, "publish": scope}, sub=self.subject, seconds=seconds)


class Grants(RuleBasedStateMachine):
    """Users of three tasks, beside a witness that may see all of them."""

    examples = steps = subjects = fences = 0

    def __init__(self, relay: RelayServer, redis: RedisServer, publisher: Publisher) -> None:
        super().__init__()
        self.relay, self.redis, self.publisher = relay, redis, publisher
        self.present: list[User] = []
        self.away: list[User] = []
        Grants.examples += 1
        # Ids of their own for each example, so that none begins with another's states.
        self.ids = {task: f"{task}{Grants.examples}" for task in TASKS}
        self.published: dict[str, list[int]] = {task_id: [] for task_id in self.ids.values()}
        self.number = 0
        self.witness = self.user(TasksSocket(relay), TASKS)
        self.follow(self.witness, self.witness.granted)
        self.centrifuge = self.publisher_by_centrifuge()

    def publisher_by_centrifuge(self) -> CentrifugeSocket:
        """A client without a user, which may publish what its grant says."""
        client = CentrifugeSocket(self.relay)
        assert (
            client.start(token(relay={"publish": {"tasks": [*self.ids.values()]}, "watch": {"tasks": [FENCE]}}), ())
            == set()
        )
        return client

    def teardown(self) -> None:
        for user in (self.witness, *self.present):
            user.follower.close()
        self.centrifuge.close()

    # What the rules are made of.

    def user(self, follower: Follower, tasks: Collection[str]) -> User:
        Grants.subjects += 1
        return User(follower, f"user:{Grants.subjects}", {self.ids[task] for task in tasks})

    def follow(self, user: User, tasks: Collection[str], seconds: float = 600) -> None:
        """Connect a user who follows tasks, and check what it receives: all that it missed, or the states."""
        refused = user.follower.start(user.token(seconds), tasks)
        assert refused == set(tasks) - user.granted or (not user.follower.is_socket and refused == set(tasks)), refused
        if refused:
            assert set(tasks) - user.granted, "all that it asked for is inside its grant"
            if user.follower.is_socket:
                tasks = set(tasks) - refused
            else:  # a stream is refused as a whole
                tasks = set(tasks) & user.granted
                assert user.follower.start(user.token(seconds), tasks) == set()
        user.followed = set(tasks)
        self.settle({user: {task: self.missed(user, task) for task in tasks}})

    def missed(self, user: User, task: str) -> list[int]:
        """What a user gets of a task that it begins to follow."""
        seen = user.seen.pop(task, None)
        return self.published[task][-1:] if seen is None else self.published[task][seen:]

    def settle(self, expected: dict[User, Received] | None = None) -> None:
        """Check that all clients have received what they should have, and nothing else."""
        Grants.steps += 1
        Grants.fences += 1
        self.publisher.publish_task_update(FENCE, {"n": Grants.fences})
        for user in {*self.present, self.witness, *(expected or ())}:
            received = user.follower.take(Grants.fences)
            wanted = (expected or {}).get(user, {})
            assert received == {task: numbers for task, numbers in wanted.items() if numbers}, type(user.follower)

    def present_user(self, index: int) -> User:
        return self.present[index % len(self.present)]

    # Coming and going.

    @precondition(lambda self: len(self.present) < MAX_CLIENTS)
    @rule(way=st.sampled_from([*WAYS]), granted=SOME_TASKS, tasks=SOME_TASKS)
    def connect(self, way: str, granted: set[str], tasks: set[str]) -> None:
        user = self.user(WAYS[way](self.relay), granted)
        self.follow(user, {self.ids[task] for task in tasks})
        self.present.append(user)

    @precondition(lambda self: self.present)
    @rule(index=INDEX, task=A_TASK)
    def subscribe(self, index: int, task: str) -> None:
        user, task_id = self.present_user(index), self.ids[task]
        if isinstance(user.follower, TasksSocket | CentrifugeSocket) and task_id not in user.followed:
            assert user.follower.subscribe(task_id) is (task_id in user.granted)
            if task_id in user.granted:
                user.followed.add(task_id)
                self.settle({user: {task_id: self.missed(user, task_id)}})
            else:
                self.settle()

    @precondition(lambda self: self.present)
    @rule(index=INDEX)
    def leave(self, index: int) -> None:
        user = self.present.pop(index % len(self.present))
        user.follower.close()
        user.seen = {task: len(self.published[task]) for task in user.followed}
        self.away.append(user)

    @precondition(lambda self: self.away and len(self.present) < MAX_CLIENTS)
    @rule(index=INDEX, granted=st.none() | SOME_TASKS)
    def resume(self, index: int, granted: set[str] | None) -> None:
        """Come back to all that it followed, perhaps with another grant."""
        user = self.away.pop(index % len(self.away))
        if granted is not None:
            user.granted = {self.ids[task] for task in granted}
        self.follow(user, user.followed)
        self.present.append(user)

    # Publishing.

    @rule(task=A_TASK, way=st.sampled_from(PUBLISHING))
    def publish(self, task: str, way: str) -> None:
        self.publish_as(None, self.ids[task], way)

    @precondition(lambda self: self.present)
    @rule(index=INDEX, task=A_TASK, way=st.sampled_from(PUBLISHING[1:4]))
    def publish_with_a_grant(self, index: int, task: str, way: str) -> None:
        self.publish_as(self.present_user(index), self.ids[task], way)

    def publish_as(self, user: User | None, task_id: str, way: str) -> None:
        self.number += 1
        data = {"n": self.number}
        headers = bearer((user or self.witness).token())
        is_done = user is None or task_id in user.granted
        if way == "PUBLISH":
            self.redis.publish_task(task_id, **data)
            while task_id not in self.witness.follower.received:  # in the same turn as all others
                self.witness.follower.read()
        elif way == "API":
            answer = call(self.relay, f"/api/tasks/{task_id}", headers, "POST", {"data": data})
            assert answer[0] == (200 if is_done else 403)
        elif way == "batch":
            batch = {"updates": [{"task_id": task_id, "data": data}]}
            assert call(self.relay, "/api/batch", headers, "POST", batch)[0] == (200 if is_done else 207)
        elif way == "Mercure":
            form = {"topic": f"task:{task_id}", "data": json.dumps(data)}
            url = f"http://127.0.0.1:{self.relay.port}/.well-known/mercure"
            status = httpx.post(url, data=form, headers=headers, timeout=PATIENCE, verify=False).status_code
            assert status == (200 if is_done else 403)
        else:
            assert self.centrifuge.publish(task_id, self.number)
        if not is_done:
            self.settle()
            return
        self.published[task_id].append(self.number)
        users = [each for each in (*self.present, self.witness) if task_id in each.followed]
        self.settle({each: {task_id: [self.number]} for each in users})

    # The life of a grant.

    @precondition(lambda self: self.present)
    @rule(index=INDEX, tasks=SOME_TASKS)
    def renew(self, index: int, tasks: set[str]) -> None:
        user = self.present_user(index)
        if isinstance(user.follower, TasksSocket | CentrifugeSocket):
            user.granted = {self.ids[task] for task in tasks}
            user.follower.ended.clear()
            user.follower.authenticate(user.token())
            self.settle()
            assert user.follower.ended == user.followed - user.granted
            user.followed &= user.granted

    @precondition(lambda self: self.present)
    @rule(index=INDEX, task=A_TASK)
    def revoke(self, index: int, task: str) -> None:
        user = self.present.pop(index % len(self.present))
        script, names, values = revoke_call("sub", user.subject, 600)
        old = user.token()
        with self.redis.client() as client:
            client.eval(script.source, len(names), *names, *values)
        assert user.follower.end() == ({}, user.follower.revoked)
        user.follower.close()
        assert call(self.relay, f"/api/tasks/{self.ids[task]}", bearer(old))[0] == 401
        self.settle()

    @rule(way=st.sampled_from(["/ws/tasks", "/events", "Mercure"]), tasks=SOME_TASKS)
    def expire(self, way: str, tasks: set[str]) -> None:
        """Centrifuge's clients have 25 s more to show another token: too long for this."""
        user = self.user(WAYS[way](self.relay), tasks)
        received: Received = {}
        try:
            assert user.follower.start(user.token(seconds=0.5), user.granted) == set()
            received, code = user.follower.end()
        except Gone as gone:  # it took so long to connect
            code = gone.args[0]
        received.pop(FENCE, None)
        assert received.items() <= {task: self.published[task][-1:] for task in user.granted}.items()
        assert code == user.follower.expired or (code == 401 and not user.follower.is_socket)
        user.follower.close()
        self.settle()

    # Requests.

    @precondition(lambda self: self.present)
    @rule(index=INDEX, task=A_TASK)
    def ask_over_http(self, index: int, task: str) -> None:
        user, task_id = self.present_user(index), self.ids[task]
        status, body = call(self.relay, f"/api/tasks/{task_id}", bearer(user.token()))
        kept, page = call(self.relay, f"/api/tasks/{task_id}/history", bearer(user.token()))
        numbers = self.published[task_id]
        if task_id not in user.granted:
            assert [(status, body["code"]), (kept, page["code"])] == [(403, "forbidden")] * 2
        elif numbers:
            assert (status, body["data"]) == (200, {"n": numbers[-1]})
            assert [update["data"]["n"] for update in page["updates"]] == numbers
        else:
            assert (status, kept) == (404, 404)

    @precondition(lambda self: self.present)
    @rule(index=INDEX)
    def list_over_http(self, index: int) -> None:
        user = self.present_user(index)
        status, page = call(self.relay, "/api/tasks", bearer(user.token()))
        assert (status, page["next"]) == (200, None)
        shown = {task["task_id"]: task["data"]["n"] for task in page["tasks"] if task["task_id"] != FENCE}
        assert shown == {task: self.published[task][-1] for task in user.granted if self.published[task]}

    @precondition(lambda self: self.present)
    @rule(index=INDEX, task=A_TASK)
    def share(self, index: int, task: str) -> None:
        """A link is a watcher of one task, which goes with its maker when that is revoked."""
        user, task_id = self.present_user(index), self.ids[task]
        status, link = call(self.relay, f"/api/tasks/{task_id}/share", bearer(user.token()), "POST")
        if task_id not in user.granted:
            assert (status, link["code"]) == (403, "forbidden")
            return
        for other in self.ids.values():
            expected = 403 if other != task_id else 200 if self.published[task_id] else 404
            assert call(self.relay, f"/api/tasks/{other}", bearer(link["token"]))[0] == expected
        assert call(self.relay, "/api/tasks", bearer(link["token"]))[1]["tasks"] == []


def test_no_order_of_events_shows_a_client_what_it_may_not_see(
    shared_redis: RedisServer, share_relay: StartRelay
) -> None:
    relay = share_relay(**SETTINGS, channel_namespaces=NAMESPACES)
    with Publisher(shared_redis.url) as publisher:
        machine: Any = lambda: Grants(relay, shared_redis, publisher)  # noqa: E731 - Hypothesis takes any factory, and says it takes a class
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
    print(f"{Grants.examples} examples, all clients compared {Grants.steps} times")
