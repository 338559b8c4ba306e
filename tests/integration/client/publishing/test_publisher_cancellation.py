"""Cancelling a publish, in asyncio and Trio: its update is taken back, nobody else's suffers, and the block ends in time."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import pytest
import relay_client.aio
import relay_client.trio
import trio
import trio.testing

from tests.harness import RedisServer
from tests.integration.client.reading import log_of


def numbers(server: RedisServer) -> list[int]:
    return [data["n"] for _, _, data in log_of(server, "task:t")]


def test_asyncio_a_cancelled_update_that_waits_is_never_sent(redis_server: RedisServer) -> None:
    async def main() -> None:
        async with relay_client.aio.Publisher(redis_server.url, timeout=0.4) as publisher:
            await publisher.publish_task_update("t", {"n": 0})
            redis_server.freeze()
            tasks = []
            for number in range(1, 5):  # the first carries out what the others have put in line
                tasks.append(asyncio.create_task(publisher.publish_task_update("t", {"n": number})))
                await asyncio.sleep(0)
            await asyncio.sleep(0.1)
            assert publisher.waiting == 4
            tasks[2].cancel()
            tasks[0].cancel()
            await asyncio.wait(tasks, timeout=0.1)
            assert tasks[0].cancelled()
            assert tasks[2].cancelled()
            assert publisher.waiting == 2
            redis_server.thaw()
            await asyncio.gather(tasks[1], tasks[3])
            await publisher.publish_task_update("t", {"n": 9})

    asyncio.run(main())
    sent = numbers(redis_server)
    # 1 was on its way.
    assert sent in ([0, 2, 4, 9], [0, 1, 2, 4, 9])


async def test_trio_a_cancelled_update_that_waits_is_never_sent(redis_server: RedisServer) -> None:
    async with relay_client.trio.Publisher(redis_server.url, timeout=0.4) as publisher:
        await publisher.publish_task_update("t", {"n": 0})
        redis_server.freeze()
        scopes = {number: trio.CancelScope() for number in range(1, 5)}

        async def publish(number: int, task_status: trio.TaskStatus[None]) -> None:
            with scopes[number]:
                task_status.started()
                await publisher.publish_task_update("t", {"n": number})

        async with trio.open_nursery() as nursery:
            for number in scopes:
                await nursery.start(publish, number)
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert publisher.waiting == 4
            scopes[3].cancel()
            scopes[1].cancel()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert publisher.waiting == 2
            redis_server.thaw()
        await publisher.publish_task_update("t", {"n": 9})
    assert scopes[1].cancelled_caught
    assert scopes[3].cancelled_caught
    assert numbers(redis_server) in ([0, 2, 4, 9], [0, 1, 2, 4, 9])


def test_asyncio_a_cancelled_block_gives_posts_one_try_more(redis_server: RedisServer) -> None:
    async def main(freeze: bool) -> float:
        started = 0.0

        async def block() -> None:
            async with relay_client.aio.Publisher(redis_server.url, timeout=0.4) as publisher:
                await publisher.publish_task_update("t", {"n": 0})
                if freeze:
                    redis_server.freeze()
                for number in range(1, 300):
                    publisher.post_task_update("t", {"n": number})
                await asyncio.sleep(60)

        task = asyncio.create_task(block())
        await asyncio.sleep(0.2)
        started = monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return monotonic() - started

    asyncio.run(main(freeze=False))
    assert numbers(redis_server) == list(range(300))
    try:
        assert asyncio.run(main(freeze=True)) < 2.0
    finally:
        redis_server.thaw()


async def test_trio_a_cancelled_block_gives_posts_one_try_more(redis_server: RedisServer) -> None:
    async def block(freeze: bool) -> None:
        async with relay_client.trio.Publisher(redis_server.url, timeout=0.4) as publisher:
            await publisher.publish_task_update("t", {"n": 0})
            if freeze:
                redis_server.freeze()
            for number in range(1, 300):
                publisher.post_task_update("t", {"n": number})
            scope.cancel()
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        await block(freeze=False)
    assert scope.cancelled_caught
    assert numbers(redis_server) == list(range(300))
    started = monotonic()
    try:
        with trio.CancelScope() as scope:
            await block(freeze=True)
    finally:
        redis_server.thaw()
    assert scope.cancelled_caught
    assert monotonic() - started < 2.5


def test_asyncio_cancelling_again_while_it_closes_ends_it_at_once(redis_server: RedisServer) -> None:
    async def main() -> None:
        async with asyncio.timeout(0.3):
            async with relay_client.aio.Publisher(redis_server.url) as publisher:
                await publisher.publish_task_update("t", {"n": 0})
                redis_server.freeze()
                publisher.post_task_update("t", {"n": 1})

    started = monotonic()
    try:
        with pytest.raises(TimeoutError):
            asyncio.run(main())
    finally:
        redis_server.thaw()
    assert monotonic() - started < 3.0


def test_asyncio_no_cancellation_is_swallowed(redis_server: RedisServer) -> None:
    """Wherever it comes: before Python 3.12 asyncio.wait_for, which redis-py uses, does so now and then."""

    async def main() -> None:
        for number in range(200):

            async def work() -> None:
                async with relay_client.aio.Publisher(redis_server.url) as publisher:
                    await publisher.publish_task_update("t", {"n": 0})
                    await asyncio.sleep(60)

            task = asyncio.create_task(work())
            await asyncio.sleep(number % 40 / 5000)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                async with asyncio.timeout(20):
                    await task

    asyncio.run(main())


@pytest.mark.parametrize("after", [0.0, 0.0002, 0.0005, 0.001, 0.002, 0.005])
async def test_trio_cancelled_anywhere_the_next_gets_its_own_answer(redis_server: RedisServer, after: float) -> None:
    async with relay_client.trio.Publisher(redis_server.url) as publisher:
        await _cancel_here_and_there(publisher.publish_task_update, after)
        last = await publisher.publish_task_update("t", {"n": -1})
    log = log_of(redis_server, "task:t")
    assert last is not None
    assert log[-1] == (last.offset, "task_update", {"n": -1})
    sent = [data["n"] for _, _, data in log[:-1]]
    assert sent == sorted(set(sent))


async def _cancel_here_and_there(publish: Callable[..., Awaitable[object]], after: float) -> None:
    for number in range(20):
        with trio.move_on_after(after * (1 + number / 20)):
            await publish("t", {"n": number})
