"""Families on a real Valkey: a follower has in the end what the tasks have, wherever it began."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relay_client.field_operations import apply_update
from relay_wire.channels import FAMILY_STATES
from relay_wire.creation import CreationOptions
from relay_wire.publications import Retention, ScriptCall

from relay.broker import families, script_calls
from relay.broker.service import RedisBroker
from relay.core.errors import BrokerError
from relay.core.recovery import Snapshot
from relay.core.updates import Position
from tests.harness import RedisServer
from tests.integration.broker.durable import opened

RETENTION = Retention(history_size=20)

State = dict[str, Any]


class Follower:
    """A client of the family of `p`: what it knows, and where it stands."""

    def __init__(self) -> None:
        self.tasks: dict[str, State] = {}
        self.position: Position | None = None
        self.resets = 0

    def take(self, snapshot: Snapshot) -> None:
        if snapshot.entries is None:
            assert snapshot.state is not None
            assert snapshot.state.type == FAMILY_STATES
            states, is_truncated = json.loads(snapshot.state.data)
            assert not is_truncated
            self.tasks = {task_id: apply_update({}, data) for task_id, _, data in states}
            self.resets += self.position is not None
        for update in snapshot.entries or ():
            assert (
                self.position is None or update.position is None or update.position.offset == self.position.offset + 1
            )
            self.position = update.position
            task_id, _, data = json.loads(update.data)
            self.tasks[task_id] = apply_update(self.tasks.get(task_id, {}), data)
        self.position = snapshot.top


async def run(redis: RedisBroker, *calls: ScriptCall) -> list[Any]:
    return await redis.run_calls(calls)


async def catch_up(redis: RedisBroker, follower: Follower) -> None:
    while True:
        (answer,) = await run(redis, families.read_call("family:p", follower.position, RETENTION, 1 << 20))
        assert not isinstance(answer, BrokerError), answer
        snapshot = families.read_snapshot("family:p", answer, 0.0)
        assert isinstance(snapshot, Snapshot), snapshot
        follower.take(snapshot)
        if not snapshot.is_partial:
            return


def published(task_id: str, fields: State, parent: str | None, owner: str | None) -> ScriptCall:
    options = CreationOptions(parent_id=parent, owner=frozenset([owner]) if owner else None)
    return script_calls.publish_call(
        f"task:{task_id}", "task_update", json.dumps(fields).encode(), RETENTION, options=options
    )


def without_nulls(tasks: dict[str, State]) -> dict[str, State]:
    """A life that has ended leaves nulls with those who saw it, and nothing with those who did not."""
    left = {
        task_id: {name: value for name, value in state.items() if value is not None and name != "deleted"}
        for task_id, state in tasks.items()
    }
    return {task_id: state for task_id, state in left.items() if state}


FIELDS = st.one_of(
    st.fixed_dictionaries({"text": st.sampled_from(["x", {"$append": "a"}, {"$append": "bc"}, None])}),
    st.fixed_dictionaries({"n": st.sampled_from([1, {"$append": 2}, {"$set": {"$append": 1}}])}),
    st.fixed_dictionaries({"status": st.sampled_from(["in_progress", "completed"])}),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from("pabc"), FIELDS, st.booleans(), st.sampled_from([None, "u"])),
        st.tuples(st.just("delete"), st.sampled_from("abc")),
        st.tuples(st.just("read"), st.sampled_from([0, 1])),
    ),
    max_size=40,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
async def test_every_follower_has_what_the_tasks_have(redis_server: RedisServer, steps: list[Any]) -> None:
    redis_server.clear()
    followers = [Follower(), Follower()]
    async with opened(redis_server) as redis:
        for step in steps:
            match step:
                case ("publish", task_id, fields, has_parent, owner):
                    parent = "p" if has_parent and task_id != "p" else None
                    await run(redis, published(task_id, fields, parent, owner))  # a refused one changes nothing
                case ("delete", task_id):
                    await redis.tasks(1000).delete(task_id)
                case ("read", number):
                    await catch_up(redis, followers[number])
        for follower in followers:
            await catch_up(redis, follower)
        late = Follower()
        await catch_up(redis, late)
    expected = without_nulls(late.tasks)
    # Who has seen a task keeps it when its next life is of another family, or of none.
    for follower in followers:
        seen = without_nulls(follower.tasks)
        assert {task_id: seen.get(task_id) for task_id in expected} == expected
