"""Owners, children and texts that grow, on a real cluster: a parent may lie on another node than its children."""

import json
from pathlib import Path
from typing import Any

import trio
from relay_wire import keys
from relay_wire.creation import creation_options

from relay.broker import script_calls
from relay.broker.opening import open_redis
from relay.core.errors import BrokerError
from relay.core.task_filter import TaskFilter
from tests.integration.broker.durable import REDIS_SETTINGS, RETENTION, SETTINGS
from tests.topologies import ClusterSetup

PARENTS = [f"p{number}" for number in range(6)]
CHILDREN = [f"c{number}" for number in range(30)]


async def test_tasks_of_all_nodes(tmp_path: Path) -> None:
    with ClusterSetup(tmp_path) as cluster, trio.fail_after(60):
        async with open_redis(cluster.url, SETTINGS, REDIS_SETTINGS) as redis:

            async def publish(task_id: str, parent: str | None = None, owner: str | None = None, **fields: Any) -> None:
                call = script_calls.publish_call(
                    f"task:{task_id}",
                    "task_update",
                    json.dumps(fields).encode(),
                    RETENTION,
                    options=creation_options(owner, parent),
                    sharded=True,
                )
                (answer,) = await redis.run_calls([call])
                assert not isinstance(answer, BrokerError), answer

            for parent in PARENTS:
                await publish(parent, owner="user:7", status="in_progress")
            for number, child in enumerate(CHILDREN):
                await publish(child, PARENTS[number % len(PARENTS)], status="completed")
            assert len({keys.tag_of(keys.meta(f"task:{each}")) for each in (*PARENTS, *CHILDREN)}) > 20
            for piece in ("a", "b", "c"):
                await publish("p0", text={"$append": piece})
            assert await redis.child_roll_ups().carry() == len(CHILDREN)
            tasks = redis.tasks(1000)
            for parent in PARENTS:
                task = await tasks.get(parent)
                assert task is not None
                assert json.loads(task.fields["children"])["completed"] == 5
                page = await tasks.page(100, None, TaskFilter(parent_id=parent))
                assert len(page.tasks) == 5
            page = await tasks.page(100, None, TaskFilter(owners=frozenset(["user:7"])))
            assert sorted(task.task_id for task in page.tasks) == PARENTS
            first = await tasks.get("p0")
            assert first is not None
            assert first.fields["text"] == b'"abc"'
