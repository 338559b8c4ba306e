"""Subscribers on real relays that are cut off and killed."""

import json
import ssl
from pathlib import Path

import pytest
import trio
from relay_client.subscriber import (
    ConnectionChange,
    Limits,
    RelayRefused,
    SubscriptionRefused,
    Update,
)

from relay.broker.service import RedisBroker
from relay.core.closecodes import Close
from tests.conftest import StartRelay
from tests.faults.proxy import Proxy
from tests.harness import RedisServer, RelayServer
from tests.integration.client.subscriber.bridge import Subscribe
from tests.integration.client.subscriber.servers import QUICK, Shared, publishing, take, within_patience


async def test_cut_off_and_through_a_restart(
    subscribe: Subscribe, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    """Each update once and in order: the subscriber is cut off for a while, and then its relay is killed and started again,
    while updates of two tasks and general ones are published all the time."""
    relay = start_relay("serve")
    seen: dict[str, list[int]] = {"task:t": [], "task:u": [], "general": []}
    changes: list[ConnectionChange] = []
    enough = trio.Event()

    async def publish(redis: RedisBroker) -> None:
        number = 0
        while not enough.is_set() or number <= 100:
            number += 1
            await redis.publish_task_update("t", {"n": number, f"f{number % 10}": number})
            await redis.publish_task_update("u", {"n": number})
            await redis.publish_general_update({"n": number})
            await trio.sleep(0.01)
        for task_id in ("t", "u"):
            await redis.publish_task_update(task_id, {"last": number})
        await redis.publish_general_update({"last": number})

    async def connected(times: int) -> None:
        while [change.is_up for change in changes].count(True) < times:  # noqa: ASYNC110 - there is no event for it
            await trio.sleep(0.02)
        await trio.sleep(0.3)

    async def break_things(proxy: Proxy) -> None:
        await connected(1)
        await proxy.cut(3.0)
        await connected(2)
        await trio.to_thread.run_sync(relay.kill)
        relay.start(wait=False)  # in this thread: the kernel ends a child with the thread that started it
        await connected(3)
        enough.set()

    with within_patience():
        async with publishing(redis_server) as redis, trio.open_nursery() as nursery:
            proxy = Proxy(relay.port)
            await nursery.start(proxy.run)
            url = f"ws://127.0.0.1:{proxy.port}/ws/tasks"
            async with subscribe(url, ["t", "u"], general=True, limits=QUICK, on_connection=changes.append) as updates:
                await updates.established()
                nursery.start_soon(publish, redis)
                nursery.start_soon(break_things, proxy)
                last: dict[str, int] = {}
                while len(last) < 3:
                    update = await anext(updates)
                    assert not update.is_reset
                    assert not update.is_state
                    if "last" in update.data:
                        last[update.channel] = update.data["last"]
                        continue
                    number = update.data["n"]
                    seen[update.channel].append(number)
                    if update.task_id == "t":
                        fields = {f"f{n % 10}": n for n in range(max(1, number - 9), number + 1)}
                        assert update.state == {"n": number} | fields
            nursery.cancel_scope.cancel()
    for name, numbers in seen.items():
        assert numbers == list(range(1, last[name] + 1))


async def test_slow_consumer_is_bounded_here_and_there(subscribe: Subscribe, shared: Shared, task_id: str) -> None:
    """A consumer that takes nothing: a few updates wait here, the rest stays with the relay, which drops us; and then all
    comes. The updates of the task were folded, though not its end; general updates never are."""
    redis_server, relay = shared
    count, text = 900, "x" * 10_000
    dropped: list[str] = []
    before = _dropped_as_slow(relay)

    def on_connection(change: ConnectionChange) -> None:
        if not change.is_up:
            dropped.append(change.detail)

    async with publishing(redis_server) as redis:
        small = Limits(max_waiting=20, retry_base=0.1, retry_cap=0.2)
        async with subscribe(relay.url, [task_id], general=True, limits=small, on_connection=on_connection) as updates:
            with within_patience():
                await updates.established()
                for number in range(1, count + 1):
                    await redis.publish_task_update(task_id, {"n": number, "text": text})
                    await redis.publish_general_update({"n": number, "text": text})
                await redis.publish_task_update(task_id, {"status": "completed"})
                while _dropped_as_slow(relay) == before:  # noqa: ASYNC110 - there is no event for it
                    await trio.sleep(0.05)
                assert 20 <= updates.waiting <= 40
                general: list[int] = []
                task: list[int] = []
                ended: list[Update] = []
                while len(general) < count or not ended:
                    update = await anext(updates)
                    assert not update.is_reset
                    if update.task_id is None:
                        general.append(update.data["n"])
                    else:
                        assert update.position is not None
                        task.append(update.position.offset)
                        if update.is_terminal:
                            ended.append(update)
    assert general == list(range(1, count + 1))
    assert task == sorted(set(task))
    assert [update.state for update in ended] == [{"n": count, "text": text, "status": "completed"}]
    assert dropped[0].startswith("closed: 4008") or dropped[0] == "the connection broke"


def _dropped_as_slow(relay: RelayServer) -> float:
    return sum(
        relay.metric(f'relay_connections_dropped_total{{reason="{close.label}"}}') for close in Close if close.is_slow
    )


async def test_tasks_come_and_go(subscribe: Subscribe, shared: Shared, task_id: str) -> None:
    redis_server, relay = shared
    other = f"{task_id}-other"
    async with (
        publishing(redis_server) as redis,
        subscribe(relay.url, limits=QUICK) as updates,
    ):
        await redis.publish_task_update(task_id, {"progress": 1})
        await redis.publish_general_update({"not": "wanted"})
        await updates.subscribe(task_id)
        [state] = await take(updates, 1)
        assert (state.task_id, state.data, state.is_state) == (task_id, {"progress": 1}, True)
        await updates.subscribe(other)
        with within_patience():
            await updates.established()
        await redis.publish_task_update(task_id, {"progress": 2})
        await redis.publish_task_update(other, {"progress": 3})
        assert [update.state for update in await take(updates, 2)] == [{"progress": 2}, {"progress": 3}]
        await updates.unsubscribe(task_id)
        await redis.publish_task_update(task_id, {"progress": 4})
        await redis.publish_task_update(other, {"status": "completed"})
        [last] = await take(updates, 1)
        assert (last.task_id, last.is_terminal, last.state) == (other, True, {"progress": 3, "status": "completed"})
        assert updates.tasks == [other]
        with pytest.raises(ValueError, match="1 to 255"):
            await updates.subscribe("")


async def test_goes_on_from_stored_positions(subscribe: Subscribe, shared: Shared, task_id: str) -> None:
    redis_server, relay = shared
    async with publishing(redis_server) as redis:
        async with subscribe(relay.url, [task_id], general=True, limits=QUICK) as updates:
            with within_patience():
                await updates.established()
            await redis.publish_task_update(task_id, {"a": 1, "b": 1})
            await redis.publish_general_update({"n": 1})
            await take(updates, 2)
            stored = json.dumps([updates.positions, updates.states])
        await redis.publish_task_update(task_id, {"b": 2})
        await redis.publish_task_update(task_id, {"b": 3})
        await redis.publish_general_update({"n": 2})
        positions, states = json.loads(stored)
        async with subscribe(
            relay.url, [task_id], general=True, positions=positions, states=states, limits=QUICK
        ) as updates:
            got = await take(updates, 3)
    assert [(update.data, update.state) for update in got if update.task_id] == [
        ({"b": 2}, {"a": 1, "b": 2}),
        ({"b": 3}, {"a": 1, "b": 3}),
    ]
    assert [update.data for update in got if update.task_id is None] == [{"n": 2}]
    assert not any(update.is_reset or update.is_state for update in got)


async def test_lost_history_is_told(subscribe: Subscribe, shared: Shared, task_id: str) -> None:
    """While the subscriber is away (its position is too old), and while it is there (Redis forgets everything)."""
    redis_server, relay = shared
    async with publishing(redis_server) as redis:
        await redis.publish_task_update(task_id, {"a": 1, "b": 1})
        positions = {f"task:{task_id}": ("another", 3)}
        async with subscribe(relay.url, [task_id], positions=positions, limits=QUICK) as updates:
            reset, state = await take(updates, 2)
            assert (reset.is_reset, reset.state) == (True, {})
            assert (state.is_state, state.state) == (True, {"a": 1, "b": 1})
            with redis_server.client() as client:
                client.flushall()
            await redis.publish_task_update(task_id, {"b": 2})
            reset, state = await take(updates, 2)
            assert (reset.is_reset, state.state) == (True, {"b": 2})


async def test_over_tls(
    subscribe: Subscribe,
    redis_server: RedisServer,
    start_relay: StartRelay,
    certificate: tuple[Path, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    relay = start_relay("hypercorn-tls")
    async with publishing(redis_server) as redis:
        await redis.publish_task_update("t", {"a": 1})
        context: ssl.SSLContext = relay.tls_options()["ssl"]
        async with subscribe(relay.url, ["t"], ssl_context=context, limits=QUICK) as updates:
            assert (await take(updates, 1))[0].state == {"a": 1}
        async with subscribe(relay.url, ["t"], limits=QUICK) as updates:
            with pytest.raises(RelayRefused, match="certificate"):
                await take(updates, 1)
    assert "certificate" in caplog.text, "it is logged by default"


async def test_too_many_tasks_are_refused(subscribe: Subscribe, shared: Shared) -> None:
    _, relay = shared
    async with subscribe(relay.url, list("abcdefghi"), limits=QUICK) as updates:
        with pytest.raises(SubscriptionRefused) as refused, within_patience():
            await updates.established()
        assert refused.value.code == "too_many_subscriptions"
        with pytest.raises(SubscriptionRefused):
            await take(updates, 1)


async def test_redis_away_at_first(subscribe: Subscribe, redis_server: RedisServer, start_relay: StartRelay) -> None:
    """More tasks than the relay forgives errors."""
    relay = start_relay("serve", redis_timeout=0.2, max_client_errors=2)
    redis_server.kill()
    tasks = [f"t{number}" for number in range(6)]
    changes: list[ConnectionChange] = []
    async with subscribe(relay.url, tasks, limits=QUICK, on_connection=changes.append) as updates:
        with within_patience():
            while not any(change.is_up for change in changes):  # noqa: ASYNC110 - as above
                await trio.sleep(0.05)
            await trio.sleep(1.0)  # five answers that Redis is away, to each of the tasks
            redis_server.start()  # in this thread: the kernel ends a child with the thread that started it
            await updates.established()
    # That Redis is away is no mistake of the client's, for which it would be closed with 1008.
    assert not any("1008" in change.detail for change in changes)


async def test_wrong_path_is_told(subscribe: Subscribe, shared: Shared) -> None:
    _, relay = shared
    async with subscribe(relay.url.replace("tasks", "task"), limits=QUICK) as updates:
        with pytest.raises(RelayRefused, match="ws/tasks") as refused:
            await take(updates, 1)
    assert refused.value.code == 404
