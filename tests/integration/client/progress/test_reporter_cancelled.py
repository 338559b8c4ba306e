"""Reporters whose tasks are interrupted or cancelled."""

import asyncio
import signal
import subprocess
import sys
from time import monotonic

import pytest
import relay_client.aio
import relay_client.trio
import trio
import trio.testing

from tests.harness import RedisServer, eventually
from tests.integration.client.reading import state_of


def test_an_interrupt_makes_it_cancelled(redis_server: RedisServer) -> None:
    program = (
        "import sys, time; from relay_client import TaskReporter; reporter = TaskReporter(sys.argv[1])\n"
        "with reporter('t') as task: task.progress(40); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, redis_server.url], stderr=subprocess.PIPE) as worker:
        eventually(lambda: state_of(redis_server, "t").get("progress") == 40)
        worker.send_signal(signal.SIGINT)
        _, errors = worker.communicate(timeout=20)
    assert b"KeyboardInterrupt" in errors
    state = state_of(redis_server, "t")
    assert (state["status"], state["progress"]) == ("cancelled", 40)


@pytest.mark.parametrize("frozen", [False, True])
def test_asyncio_cancelled_is_told_within_its_time(redis_server: RedisServer, frozen: bool) -> None:
    async def main() -> float:
        async def work() -> None:
            report = relay_client.aio.TaskReporter(redis_server.url, cancel_timeout=0.4)
            async with report, report("t") as task:
                task.progress(40)
                running.set()
                await asyncio.sleep(60)

        running = asyncio.Event()
        worker = asyncio.create_task(work())
        await running.wait()
        if frozen:
            redis_server.freeze()
        started = monotonic()
        worker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await worker
        return monotonic() - started

    try:
        took = asyncio.run(main())
    finally:
        redis_server.thaw()
    if frozen:
        assert took < 4.0
    else:
        state = state_of(redis_server, "t")
        assert (state["status"], state["progress"]) == ("cancelled", 40)


@pytest.mark.parametrize("frozen", [False, True])
async def test_trio_cancelled_is_told_within_its_time(redis_server: RedisServer, frozen: bool) -> None:
    started = 0.0
    try:
        with trio.CancelScope() as scope:
            report = relay_client.trio.TaskReporter(redis_server.url, cancel_timeout=0.4)
            async with report, report("t") as task:
                task.progress(40)
                if frozen:
                    redis_server.freeze()
                started = monotonic()
                scope.cancel()
                await trio.sleep_forever()
        took = monotonic() - started
    finally:
        redis_server.thaw()
    assert scope.cancelled_caught
    if frozen:
        assert took < 6.0
    else:
        state = state_of(redis_server, "t")
        assert (state["status"], state["progress"]) == ("cancelled", 40)


async def begin_in_vain_asyncio(redis_server: RedisServer) -> None:
    async with relay_client.aio.TaskReporter(redis_server.url) as report:

        async def work() -> None:
            async with report("t", title="T"):
                raise AssertionError

        redis_server.freeze()
        worker = asyncio.create_task(work())
        await asyncio.sleep(0.3)
        worker.cancel()
        await asyncio.sleep(0.1)
        redis_server.thaw()
        with pytest.raises(asyncio.CancelledError):
            await worker


async def begin_in_vain_trio(redis_server: RedisServer) -> None:
    async with relay_client.trio.TaskReporter(redis_server.url) as report, trio.open_nursery() as nursery:
        redis_server.freeze()
        with trio.move_on_after(0.3) as scope:
            nursery.start_soon(thaw_soon, redis_server)
            async with report("t", title="T"):
                raise AssertionError
        assert scope.cancelled_caught


async def thaw_soon(redis_server: RedisServer) -> None:
    await trio.sleep(0.4)
    redis_server.thaw()


@pytest.mark.parametrize("flavour", ["asyncio", "trio"])
def test_cancelled_while_it_begins_it_does_not_stay_in_progress(redis_server: RedisServer, flavour: str) -> None:
    try:
        if flavour == "asyncio":
            asyncio.run(begin_in_vain_asyncio(redis_server))
        else:
            trio.run(begin_in_vain_trio, redis_server)
    finally:
        redis_server.thaw()
    state = state_of(redis_server, "t")
    assert (state["status"], state["title"]) == ("cancelled", "T")


def test_asyncio_cancelled_while_its_end_is_told_it_is_told_all_the_same(redis_server: RedisServer) -> None:
    async def main() -> None:
        async def work() -> None:
            async with relay_client.aio.TaskReporter(redis_server.url) as report:
                try:
                    async with report("t"):
                        redis_server.freeze()
                finally:
                    left.set()

        left = asyncio.Event()
        worker = asyncio.create_task(work())
        await asyncio.sleep(0.3)
        worker.cancel()
        await asyncio.sleep(0.1)
        assert not left.is_set()
        redis_server.thaw()
        with pytest.raises(asyncio.CancelledError):
            await worker

    asyncio.run(main())
    assert state_of(redis_server, "t")["status"] == "completed"


async def test_trio_cancelled_while_its_end_is_told_it_is_told_all_the_same(redis_server: RedisServer) -> None:
    with trio.CancelScope() as scope:

        async def interfere() -> None:
            await trio.sleep(0.3)
            scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)
            redis_server.thaw()

        report = relay_client.trio.TaskReporter(redis_server.url)
        async with trio.open_nursery() as nursery, report, report("t"):
            nursery.start_soon(interfere)
            redis_server.freeze()
    assert state_of(redis_server, "t")["status"] == "completed"


async def test_trio_an_error_in_a_cancelled_scope_stays_that_error(redis_server: RedisServer) -> None:
    async def work() -> None:
        async with relay_client.trio.TaskReporter(redis_server.url) as report:
            with trio.CancelScope() as scope:
                async with report("t"):
                    scope.cancel()
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert state_of(redis_server, "t")["status"] == "failed"
