"""A task and its children in one subscription of the Python client, which resumes over another relay."""

import json
from collections.abc import AsyncIterator

import trio
from relay_client.subscriber import Update
from relay_client.subscriber.trio import Updates
from relay_client.trio import subscribe

from tests.conftest import StartRelay
from tests.harness import PATIENCE, RedisServer, RelayServer, eventually


def publish(server: RedisServer, relay: RelayServer, task_id: str, n: int) -> None:
    message = {"task_id": task_id, "data": {"text": {"$append": str(n)}, "n": n}, "parent_id": "p"}
    server.publish("task_updates", json.dumps(message))
    eventually(lambda: f'"n":{n}' in relay.get(f"/api/tasks/{task_id}")[1])


async def test_a_family_is_followed_and_resumed(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relays = [await trio.to_thread.run_sync(start_relay) for _ in range(2)]
    await trio.to_thread.run_sync(publish, redis_server, relays[0], "a", 1)
    with trio.fail_after(PATIENCE):
        async with subscribe(relays[0].url, families=["p"]) as updates:
            first = await anext(updates)
            assert (first.type, first.state["a"]["n"], first.is_state) == ("task_states", 1, True)
            await trio.to_thread.run_sync(publish, redis_server, relays[0], "a", 2)
            while (update := await anext(updates)).task_id != "a":
                assert update.task_id == "p"  # the roll-up
            assert update.state == {"text": "12", "n": 2}
            positions, states = updates.positions, updates.states
        await trio.to_thread.run_sync(publish, redis_server, relays[0], "b", 3)
        await trio.to_thread.run_sync(publish, redis_server, relays[0], "a", 4)
        async with subscribe(relays[1].url, families=["p"], positions=positions, states=states) as updates:
            missed = [update async for update in _until(updates, "a")]
    assert [update.task_id for update in missed if update.task_id != "p"] == ["b", "a"]
    assert missed[-1].state == {"text": "124", "n": 4}


async def _until(updates: Updates, task_id: str) -> AsyncIterator[Update]:
    async for update in updates:
        yield update
        if update.task_id == task_id:
            return
