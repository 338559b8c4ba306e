"""Requests to cancel tasks reach the code that works on them: in threads, asyncio and Trio, on a real Redis."""

import asyncio
import multiprocessing
import os
from typing import Any

import pytest
import relay_client.aio
import relay_client.trio
import trio
from relay_client import CancelListener, TaskCancelled, TaskReporter
from relay_client.cancellation.receiver import CancelReceiver
from relay_wire import cancellation, keys

from tests.harness import RedisServer, eventually
from tests.integration.client.reading import state_of


def listeners(server: RedisServer) -> int:
    with server.client() as client:
        count: Any = client.pubsub_numsub(keys.CANCEL)
    return int(count[0][1])


def test_the_script_says_what_it_did(redis_server: RedisServer) -> None:
    assert redis_server.request_cancel("t") == "unknown"
    with TaskReporter(redis_server.url) as report, report("t"):
        assert redis_server.request_cancel("t", "too slow") == "requested"
        assert redis_server.request_cancel("t", "too slow") == "requested"
        with redis_server.client() as client:
            assert client.hget(keys.meta("task:t"), cancellation.FIELD) == b"too slow"
    assert redis_server.request_cancel("t") == "ended"


def test_a_task_in_a_thread_raises_at_its_next_report(redis_server: RedisServer) -> None:
    def work() -> None:
        with report("t") as task:
            assert state_of(redis_server, "t")["cancellable"] is True
            assert redis_server.request_cancel("t", "too slow") == "requested"
            assert task.cancelled.wait(20)
            assert task.cancelled.reason == "too slow"
            task.progress(50)

    with TaskReporter(redis_server.url, cancellable=True) as report:
        with pytest.raises(TaskCancelled, match="too slow"):
            work()
        assert state_of(redis_server, "t")["status"] == "cancelled"


def test_a_block_of_asyncio_is_cancelled(redis_server: RedisServer) -> None:
    ended: list[str] = []

    async def work(report: relay_client.aio.TaskReporter) -> None:
        async with report("t"):
            try:
                await asyncio.to_thread(redis_server.request_cancel, "t", "too slow")
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    async def main() -> None:
        async with relay_client.aio.TaskReporter(redis_server.url, cancellable=True) as report:
            with pytest.raises(TaskCancelled, match="too slow"):
                await work(report)
            await asyncio.sleep(0)  # the program goes on
            ended.append("went on")

    asyncio.run(main())
    assert ended == ["cancelled", "went on"]
    assert state_of(redis_server, "t")["status"] == "cancelled"


def test_somebody_elses_cancellation_of_asyncio_stays_one(redis_server: RedisServer) -> None:
    async def main() -> None:
        async def work() -> None:
            async with listener.scope("t"):
                running.set()
                await asyncio.sleep(60)

        running = asyncio.Event()
        async with relay_client.aio.CancelListener(redis_server.url) as listener:
            worker = asyncio.create_task(work())
            await running.wait()
            worker.cancel()
            with pytest.raises(asyncio.CancelledError):
                await worker

    asyncio.run(main())


def test_a_block_of_trio_is_cancelled(redis_server: RedisServer) -> None:
    ended: list[str] = []

    async def work(report: relay_client.trio.TaskReporter) -> None:
        async with report("t"), trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.to_thread.run_sync(redis_server.request_cancel, "t", "too slow")
                await trio.sleep(60)
            except trio.Cancelled:
                ended.append("cancelled")
                raise

    async def main() -> None:
        async with relay_client.trio.TaskReporter(redis_server.url, cancellable=True) as report:
            with pytest.raises(TaskCancelled, match="too slow"):
                await work(report)
            await trio.lowlevel.checkpoint()
            ended.append("went on")

    trio.run(main)
    assert ended == ["cancelled", "went on"]
    assert state_of(redis_server, "t")["status"] == "cancelled"


def test_a_request_from_before_the_start_is_found(redis_server: RedisServer) -> None:
    with TaskReporter(redis_server.url) as creator:
        creator.begin("t", {})
        assert redis_server.request_cancel("t") == "requested"
    with CancelListener(redis_server.url) as listener, listener.watch("t") as watch:
        assert watch.cancelled.wait(20)


def test_a_request_for_a_parent_reaches_its_children(redis_server: RedisServer) -> None:
    with TaskReporter(redis_server.url) as creator, TaskReporter(redis_server.url, cancellable=True) as report:
        creator.begin("top", {})
        middle = creator.begin("middle", {}, parent_id="top")
        first, second = (report.begin(name, {}, parent_id="middle") for name in ("first", "second"))
        apart = report.begin("apart", {})
        assert redis_server.request_cancel("top", "all of it") == "requested"
        for task in (first, second):
            assert task.cancelled.wait(20)
            assert task.cancelled.reason == "all of it"
        late = report.begin("late", {}, parent_id="middle")
        assert late.cancelled.wait(20), "it began when its parent's parent was cancelled already"
        assert not apart.cancelled
        assert not middle.cancelled  # nobody watches it


def test_a_request_during_an_outage_is_found(redis_server: RedisServer) -> None:
    calls: list[str] = []
    with TaskReporter(redis_server.url) as report, CancelListener(redis_server.url, timeout=0.3) as listener:
        report.begin("t", {})
        watch = listener.watch("t", calls.append)
        eventually(lambda: listeners(redis_server) == 1)
        with redis_server.client() as client:
            # The flag without the message: it was published while the connection was broken.
            client.hset(keys.meta("task:t"), cancellation.FIELD, "missed")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert watch.cancelled.wait(20)
        assert calls == ["missed"]


def test_a_failure_of_the_listener_breaks_no_work(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter(["one"])
    read = CancelReceiver._flags

    async def fail_once(self: CancelReceiver, *arguments: Any) -> Any:
        for failure in failures:
            raise LookupError(failure)
        return await read(self, *arguments)

    async def work(report: relay_client.aio.TaskReporter) -> None:
        async with report("t"):
            await asyncio.to_thread(eventually, lambda: "not received, tried again" in caplog.text)
            assert redis_server.request_cancel("t") == "requested"
            await asyncio.sleep(30)

    async def main() -> None:
        async with relay_client.aio.TaskReporter(redis_server.url, cancellable=True) as report:
            with pytest.raises(TaskCancelled):
                await work(report)

    monkeypatch.setattr(CancelReceiver, "_flags", fail_once)
    monkeypatch.setattr("relay_client.cancellation.receiver._RESTART_DELAY", 0.01)
    asyncio.run(main())


def test_a_new_life_of_an_id_is_not_cancelled(redis_server: RedisServer) -> None:
    with TaskReporter(redis_server.url) as report:
        with report("t"):
            redis_server.request_cancel("t")
        with report("t", announce=False), redis_server.client() as client:
            assert client.hget(keys.meta("task:t"), cancellation.FIELD) is None


def _watch_in_child(listener: CancelListener, task_id: str) -> None:
    with listener.watch(task_id) as watch:
        os._exit(0 if watch.cancelled.wait(20) else 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_listens_itself(redis_server: RedisServer) -> None:
    with TaskReporter(redis_server.url) as report, CancelListener(redis_server.url) as listener:
        report.begin("parent", {})
        report.begin("child", {})
        watch = listener.watch("parent")
        eventually(lambda: listeners(redis_server) == 1)
        child = multiprocessing.get_context("fork").Process(target=_watch_in_child, args=(listener, "child"))
        child.start()
        eventually(lambda: listeners(redis_server) == 2)
        redis_server.request_cancel("child")
        child.join(20)
        assert child.exitcode == 0
        assert not watch.cancelled
        redis_server.request_cancel("parent")
        assert watch.cancelled.wait(20)
