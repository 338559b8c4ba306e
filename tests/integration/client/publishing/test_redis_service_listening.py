"""Listening with `relay_client.redis_service`: callbacks of all kinds, however they fail, and a Redis that goes and comes."""

import asyncio
import logging
from typing import Any

import pytest
from relay_client.listening import CALLBACK_QUEUE
from relay_client.redis_service import RedisService, redis_service

from tests.harness import RedisServer
from tests.integration.client.publishing.redis_services import listening, run, until


def test_callbacks_of_all_kinds_at_any_time(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    plain: list[Any] = []
    later: list[Any] = []
    failing: list[Any] = []

    async def keep(message: Any) -> None:
        await asyncio.sleep(0)
        later.append(message)

    async def fail(message: Any) -> None:
        failing.append(message)
        if message == 2:
            raise asyncio.CancelledError
        raise ZeroDivisionError

    async def main() -> None:
        service = RedisService(redis_server.url)
        await service.subscribe_to_channel("news", plain.append)  # awaited, as some services do
        service.subscribe_to_channel("news", fail)
        async with listening(service):
            redis_server.publish("news", "1")
            await until(lambda: plain == [1])
            end = service.subscribe_to_channel("n?w*", keep)
            await until(lambda: redis_server.publish("news", "0") == 2)
            await until(lambda: later == [0])
            redis_server.publish("news", "not json")
            redis_server.publish("news", "2")
            redis_server.publish("news", '{"a": [3]}')
            await until(lambda: len(failing) == len(plain) == 4 + plain.count(0) - 1)
            end()
            await until(lambda: redis_server.publish("news", "4") == 1)
            await until(lambda: plain[-1] == 4 and failing[-1] == 4)
            with pytest.raises(RuntimeError, match="already"):
                await service.start_listening()

    with caplog.at_level(logging.WARNING, "relay_client"):
        run(main)
    assert [message for message in plain if message not in (0, 4)] == [1, 2, {"a": [3]}]
    assert later == [0, 2, {"a": [3]}]
    assert "no JSON" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "was cancelled" in caplog.text


def test_a_callback_too_slow_loses_the_newest_counted_and_harms_no_other(redis_server: RedisServer) -> None:
    stuck: list[int] = []
    others: list[int] = []
    total = CALLBACK_QUEUE + 50

    async def main() -> None:
        keep_running = asyncio.Event()

        async def slow(message: int) -> None:
            await keep_running.wait()
            stuck.append(message)

        service = RedisService(redis_server.url)
        service.subscribe_to_channel("a", slow)
        service.subscribe_to_channel("a", others.append)
        async with listening(service):
            redis_server.publish("a", "0")
            await until(lambda: others == [0])
            with redis_server.client() as client, client.pipeline(transaction=False) as pipeline:
                for number in range(1, total + 1):
                    pipeline.publish("a", str(number))
                await asyncio.to_thread(pipeline.execute)
            await until(lambda: len(others) == total + 1)
            assert service.callback_overflows == 50
            keep_running.set()
            await until(lambda: len(stuck) == CALLBACK_QUEUE + 1)

    run(main)
    assert others == list(range(total + 1))
    assert stuck == list(range(CALLBACK_QUEUE + 1))


@pytest.mark.parametrize("trouble", ["kill", "freeze"])
def test_listening_goes_on_after_redis_was_away(redis_server: RedisServer, trouble: str) -> None:
    received: list[int] = []

    async def main() -> None:
        service = RedisService(redis_server.url, timeout=0.3)
        service.subscribe_to_channel("a", received.append)
        async with listening(service):
            if trouble == "kill":
                redis_server.kill()
            else:
                redis_server.freeze()
            await until(lambda: not service.alive)
            if trouble == "kill":
                redis_server.start()
            else:
                redis_server.thaw()
            await until(lambda: redis_server.publish("a", "1"))
            await until(lambda: received)
            assert service.alive
            assert service.reconnects >= 1

    run(main)


def test_one_instance_for_the_process_serves_several_loops(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    received: list[Any] = []
    end = redis_service.subscribe_to_channel("task_updates", received.append)

    async def main() -> None:
        async with listening(redis_service):
            await redis_service.publish_task_update("t", {"progress": 40})
            await until(lambda: received)
            received.clear()

    for _ in range(2):
        run(main)
    end()


def test_a_callback_may_stop_the_listening(redis_server: RedisServer) -> None:
    async def main() -> None:
        service = RedisService(redis_server.url)

        async def stop(_message: Any) -> None:
            await service.stop_listening()

        service.subscribe_to_channel("news", stop)
        task = asyncio.create_task(service.start_listening())
        await until(lambda: service.alive)
        redis_server.publish("news", "1")
        await asyncio.wait_for(task, 5)
        await service.disconnect()

    run(main)


def test_a_base_exception_of_a_callback_ends_nothing(redis_server: RedisServer) -> None:
    received: list[Any] = []

    class Abort(BaseException):
        pass

    async def abort(_message: Any) -> None:
        raise Abort

    async def main() -> None:
        service = RedisService(redis_server.url)
        service.subscribe_to_channel("news", abort)
        service.subscribe_to_channel("news", received.append)
        async with listening(service):
            for number in range(2):
                redis_server.publish("news", str(number))
            await until(lambda: received == [0, 1])

    run(main)
