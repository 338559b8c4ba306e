"""A task id that is used again begins a new life: the state and the history of the last one are never mixed into it.

The model is what a careful reader of the published updates would say; the scripts must agree with it, whichever way the updates
came: published durably, tried again, or published plainly and ingested by two relays, one of which is late.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relay_wire import keys, publications
from relay_wire.creation import PARENT_FIXED, CreationOptions
from relay_wire.publications import Occurrence, PublishResult, Retention, ScriptCall
from relay_wire.statuses import TERMINAL

from relay.broker import script_calls
from relay.broker.task_list import Task, read_task, state_call
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually

RETENTION = Retention()
STATUSES = ("pending", "in_progress", "completed", "failed")


class Redis:
    """Runs calls of one task, and checks it against a model of its present life."""

    def __init__(self, client: redis_py.Redis) -> None:
        self.client = client
        self.fields: dict[str, Any] | None = None
        self.announced = False
        self.owner: frozenset[str] = frozenset()
        self.parent: str | None = None
        self.lives = 0
        self.positions: list[tuple[Position, dict[str, Any]]] = []  # of the present life, with what was published there
        self.number = 0
        self.last: list[ScriptCall] = []  # what may be tried again, or is still to come from another relay

    def run(self, call: ScriptCall) -> Any:
        return self.client.eval(call.script.source, len(call.keys), *call.keys, *call.values)

    def result(self, call: ScriptCall) -> PublishResult:
        return publications.publish_result(self.run(call))

    def read(self, since: Position | None = None) -> Snapshot:
        answer = self.run(script_calls.read_call("task:t", since, RETENTION, 1 << 20))
        snapshot = script_calls.read_snapshot("task:t", answer, 0.0)
        assert isinstance(snapshot, Snapshot)
        return snapshot

    def expected_life(self, data: dict[str, Any], *, is_announcement: bool) -> bool:
        """Whether this begins a life of its own."""
        if self.fields is None:
            return True
        has_ended = self.fields.get("status") in TERMINAL
        if is_announcement:
            return has_ended or self.announced
        return has_ended and "status" in data and data["status"] not in TERMINAL

    def update(self, data: dict[str, Any], plainly: bool, options: CreationOptions) -> None:
        self.number += 1
        data = {**data, f"f{self.number % 3}": self.number}
        raw = json.dumps(data).encode()
        if plainly:
            occurrence = Occurrence(f"digest-{self.number}", 1, 0, 30_000)
            call = script_calls.ingest_call(
                Update("task:t", "task_update", raw, 0.0, options=options), occurrence, RETENTION
            )
        else:
            call = script_calls.publish_call(
                "task:t", "task_update", raw, RETENTION, options=options, idempotency_key=f"{self.number}"
            )
        before = self.read().top
        begins = self.expected_life(data, is_announcement=False)
        if self.is_refused(call, begins, options):
            return
        result = self.result(call)
        assert not result.is_duplicate
        self.last.append(call)
        if begins:
            assert self.fields is None or result.position == (result.position.epoch, 1)
            assert self.fields is None or result.position.epoch != before.epoch
            self.begin(announced=False)
        self.take(options)
        self.fields = {**(self.fields or {}), **data}
        self.positions.append((result.position, data))

    def announce(self, data: dict[str, Any], plainly: bool, options: CreationOptions) -> None:
        self.number += 1
        data = {**data, "announced_as": self.number}
        raw = json.dumps({"type": "task_created", "task_info": {"task_id": "t", **data}}).encode()
        if plainly:
            occurrence = Occurrence(f"digest-{self.number}", 1, 0, 30_000)
            call = script_calls.ingest_created_call(
                Update("general", "general_update", raw, 0.0, options=options), occurrence, RETENTION
            )
            assert call is not None
        else:
            fields = {name: json.dumps(value).encode() for name, value in data.items()}
            call = publications.create_call(
                "t",
                fields,
                json.dumps(data).encode(),
                RETENTION,
                status=data.get("status"),
                options=options,
                idempotency_key=f"{self.number}",
            )
        begins, existed = self.expected_life(data, is_announcement=True), self.fields is not None
        if self.is_refused(call, begins, options):
            return
        result = self.result(call)
        self.last.append(call)
        assert result.is_duplicate is not begins
        if begins:
            self.begin(announced=True)
            self.fields = data
            self.take(options)
            if existed:  # those who watched the last life are sent the new one
                self.positions.append((result.position, data))
        else:
            self.take(options)
        self.announced = True

    def begin(self, *, announced: bool) -> None:
        self.lives += 1
        self.fields, self.announced, self.positions = None, announced, []
        self.owner, self.parent = frozenset(), None

    def take(self, options: CreationOptions) -> None:
        if options.owner is not None:
            self.owner = options.owner
        self.parent = self.parent or options.parent_id

    def is_refused(self, call: ScriptCall, begins: bool, options: CreationOptions) -> bool:
        """Whether the call names another parent, which changes nothing."""
        if begins or self.parent is None or options.parent_id in (None, self.parent):
            return False
        with pytest.raises(redis_py.ResponseError, match=PARENT_FIXED):
            self.run(call)
        return True

    def repeat(self, which: int) -> None:
        """A publisher tries again, or another relay is late: nothing changes."""
        if self.last:
            assert self.result(self.last[which % len(self.last)]).is_duplicate

    def check(self, old: list[Position]) -> None:
        snapshot = self.read()
        state = None if snapshot.state is None else json.loads(snapshot.state.data)
        assert state == self.fields
        assert snapshot.owner == self.owner
        task = read_task("t", None, self.run(state_call("t")))
        assert task is None if self.fields is None else isinstance(task, Task) and task.run == self.lives
        assert self.client.hget(keys.meta("task:t"), "parent") == (self.parent and self.parent.encode())
        if self.positions:
            assert snapshot.top == self.positions[-1][0]
            start = Position(snapshot.top.epoch, 0)
            entries = self.read(start).entries
            assert entries is not None
            assert [(entry.position, json.loads(entry.data)) for entry in entries] == self.positions
        for position in old:
            if position.epoch != snapshot.top.epoch:
                assert self.read(position).entries is None  # a client in an earlier life gets a reset


@contextmanager
def empty(client: redis_py.Redis) -> Iterator[Redis]:
    client.flushall()
    yield Redis(client)


STEP = st.tuples(
    st.sampled_from(["update", "update", "update", "announce", "repeat"]),
    st.sampled_from([None, *STATUSES]),
    st.booleans(),
    st.integers(0, 5),
    st.builds(
        CreationOptions,
        st.sampled_from([None, None, frozenset[str](), frozenset(["user:7"]), frozenset(["user:7", 'group:"ä"'])]),
        st.sampled_from([None, None, "p", "q"]),
        st.none(),  # any owner will do
    ),
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis_py.Redis]:
    with RedisServer(tmp_path_factory.mktemp("redis"), "--save", "") as server, server.client() as client:
        yield client


@given(st.lists(STEP, max_size=25))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_life_is_what_was_published_in_it(
    client: redis_py.Redis, steps: list[tuple[str, str | None, bool, int, CreationOptions]]
) -> None:
    old: list[Position] = []
    with empty(client) as redis:
        for kind, status, plainly, which, options in steps:
            data = {} if status is None else {"status": status}
            if kind == "update":
                redis.update(data, plainly, options)
            elif kind == "announce":
                redis.announce(data, plainly, options)
            else:
                redis.repeat(which)
            redis.check(old)
            old.append(redis.read().top)


def test_who_watches_an_id_that_is_used_again_is_sent_the_new_life_and_nothing_of_the_old(
    redis_server: RedisServer, start_relay: StartRelay, tmp_path: Path
) -> None:
    relays = [start_relay(), start_relay()]
    announcement = {"type": "task_created", "task_info": {"task_id": "t", "status": "pending", "title": "first"}}
    with relays[0].client() as resuming, relays[1].client("t") as plain:
        resuming.send({"type": "subscribe", "task_id": "t", "position": None})
        assert resuming.receive()["type"] == "subscribed"
        redis_server.publish_general(**announcement)
        redis_server.publish_task("t", status="failed", error="boom")
        eventually(lambda: "boom" in relays[0].get("/api/tasks/t")[1])
        redis_server.publish_general(**announcement)
        redis_server.publish_task("t", status="completed", progress=100)
        eventually(lambda: "completed" in relays[0].get("/api/tasks/t")[1])
        for client in (resuming, plain):
            seen: list[dict[str, Any]] = []
            while not seen or seen[-1].get("status") != "completed":
                message = client.receive()
                if message["type"] == "task_update":
                    seen.append(message["data"])
            failed = next(place for place, data in enumerate(seen) if data.get("status") == "failed")
            assert not any(data.get("error") for data in seen[failed + 1 :])
            # A page that lays updates over each other does not keep the last end either.
            page = {name: value for data in seen for name, value in data.items()}
            assert page == {"status": "completed", "title": "first", "progress": 100, "error": None}
        for relay in relays:
            body = json.loads(relay.get("/api/tasks/t")[1])["data"]
            assert body == {"status": "completed", "title": "first", "progress": 100}
