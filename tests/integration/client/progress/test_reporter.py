"""Reporting on tasks in its three flavours, on a real Valkey."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from time import monotonic, sleep
from typing import Any

import pytest
import relay_client.aio
import relay_client.trio
from relay_client import NotDelivered, TaskCancelled, TaskReporter
from relay_wire import keys

from tests.conftest import StartRelay
from tests.harness import ROOT, RedisServer, eventually
from tests.integration.client.flavours import FLAVOURS, Flavour, reporter
from tests.integration.client.reading import log_of, state_of


def updates_of(server: RedisServer, task_id: str) -> list[dict[str, Any]]:
    return [data for _, _, data in log_of(server, f"task:{task_id}")]


def epoch_of(server: RedisServer, task_id: str) -> bytes | None:
    with server.client() as redis:
        epoch: bytes | None = redis.hget(keys.meta(f"task:{task_id}"), "epoch")
        return epoch


def test_a_task_is_announced_started_reported_and_completed(flavour: Flavour, redis_server: RedisServer) -> None:
    with reporter(flavour, redis_server.url) as report:
        with report("t", title="A picture", tier="gold") as task:
            assert task.id == "t"
            assert state_of(redis_server, "t")["status"] == "in_progress"
            task.progress(40, "Rendering", stage="image_started")
            eventually(lambda: state_of(redis_server, "t").get("progress") == 40)
            task.progress(97)
        with report(title="Unnamed") as task:
            assert len(task.id) == 32
    started, *reports, completed = updates_of(redis_server, "t")
    assert started["status"] == "in_progress"
    assert (started["title"], started["tier"]) == ("A picture", "gold")
    assert reports == [{"progress": 40, "message": "Rendering", "stage": "image_started"}, {"progress": 97}]
    assert completed.pop("completed_at")
    assert completed == {"status": "completed", "progress": 100} | (
        {"message": "Rendering", "stage": "image_started"} if len(completed) > 2 else {}
    )
    announced = [data for _, _, data in log_of(redis_server, "general")]
    assert announced[0]["type"] == "task_created"
    assert announced[0]["task_info"].pop("created_at")
    assert announced[0]["task_info"] == {"task_id": "t", "status": "pending", "title": "A picture", "tier": "gold"}
    assert announced[1]["task_info"]["task_id"] == task.id


def test_an_error_makes_it_failed_and_is_raised_on(flavour: Flavour, redis_server: RedisServer) -> None:
    def fail() -> None:
        with report("t") as task:
            task.progress(40)
            raise ZeroDivisionError("by nothing")

    with reporter(flavour, redis_server.url) as report:
        with pytest.raises(ZeroDivisionError, match="by nothing"):
            fail()
        with pytest.raises(TaskCancelled), report("u", announce=False):
            raise TaskCancelled
    state = state_of(redis_server, "t")
    assert (state["status"], state["progress"], state["error"]) == ("failed", 40, "ZeroDivisionError: by nothing")
    assert state_of(redis_server, "u")["status"] == "cancelled"
    assert len(log_of(redis_server, "general")) == 1


def test_reports_are_limited_in_rate_and_the_last_is_kept(flavour: Flavour, redis_server: RedisServer) -> None:
    with reporter(flavour, redis_server.url, rate=10.0) as report, report("t", announce=False) as task:
        started = monotonic()
        for number in range(10_000):
            task.progress(number / 101, stage="late" if number > 9_000 else "early")
            if number % 100 == 0:
                sleep(0.005)
        took = monotonic() - started
        eventually(lambda: state_of(redis_server, "t").get("progress") == 9_999 / 101)
    sent = len(updates_of(redis_server, "t")) - 2
    assert 2 <= sent <= 10 * took + 4
    stages = [update["stage"] for update in updates_of(redis_server, "t") if "stage" in update]
    assert stages[0] == "early"
    assert "late" in stages


def test_reporting_goes_on_through_a_restart_of_redis(flavour: Flavour, lasting_server: RedisServer) -> None:
    with reporter(flavour, lasting_server.url, rate=50.0) as report, report("t") as task:
        for number in range(60):
            task.progress(number, f"step {number}")
            if number == 20:
                lasting_server.kill()
            if number == 40:
                lasting_server.start()
            sleep(0.01)
        eventually(lambda: state_of(lasting_server, "t").get("progress") == 59)
    state = state_of(lasting_server, "t")
    assert (state["status"], state["message"]) == ("completed", "step 59")
    progress = [update["progress"] for update in updates_of(lasting_server, "t") if "progress" in update]
    assert progress == sorted(progress)


def test_what_redis_did_not_take_in_time_is_sent_later(redis_server: RedisServer) -> None:
    with reporter("threads", redis_server.url, within=0.3, rate=20.0) as report, report("t") as task:
        redis_server.freeze()
        task.progress(10, "before")
        sleep(0.8)
        task.progress(20)
        redis_server.thaw()
        eventually(lambda: state_of(redis_server, "t").get("progress") == 20)
        assert state_of(redis_server, "t")["message"] == "before"


def test_an_end_that_cannot_be_told_is_raised(flavour: Flavour, redis_server: RedisServer) -> None:
    def run(report: Any, error: Exception | None) -> None:
        with report("t", announce=False):
            redis_server.kill()
            if error is not None:
                raise error

    with reporter(flavour, redis_server.url, within=0.2, on_error="raise") as report:
        with pytest.raises(NotDelivered):
            run(report, None)
        with pytest.raises(NotDelivered), report("u"):
            pytest.fail("it has not begun")
        redis_server.start()
        with pytest.raises(ZeroDivisionError) as caught:
            run(report, ZeroDivisionError())
        assert any("was not notified" in note for note in caught.value.__notes__)


def test_signs_of_life_keep_a_silent_task_from_being_stalled(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    """Of all flavours, until its worker is killed."""
    relay = start_relay(task_stall_seconds=0.6)
    program = (
        "import sys, time; from relay_client import TaskReporter; reporter = TaskReporter(sys.argv[1], heartbeat=0.2)\n"
        "with reporter('t', announce=False): time.sleep(60)"
    )
    with ExitStack() as stack:
        client = stack.enter_context(relay.client("t", *FLAVOURS))
        worker = stack.enter_context(subprocess.Popen([sys.executable, "-c", program, redis_server.url]))
        for name in FLAVOURS:
            report = stack.enter_context(reporter(name, redis_server.url, heartbeat=0.2))
            stack.enter_context(report(name, announce=False))
        begun = [client.receive() for _ in range(4)]
        assert {each["data"]["status"] for each in begun} == {"in_progress"}
        assert {each["task_id"] for each in begun} == {"t", *FLAVOURS}
        with pytest.raises(TimeoutError):
            client.receive(1.2)
        worker.kill()
        assert client.receive() == {"type": "task_update", "task_id": "t", "data": {"stalled": True}}


def test_a_redis_that_lost_its_memory_is_told_again(flavour: Flavour, redis_server: RedisServer) -> None:
    with reporter(flavour, redis_server.url, heartbeat=0.1) as report, report("t", title="A") as task:
        task.progress(40)
        eventually(lambda: state_of(redis_server, "t").get("progress") == 40)
        before = epoch_of(redis_server, "t")
        redis_server.kill()
        redis_server.start()
        eventually(lambda: epoch_of(redis_server, "t") not in (before, None))
        eventually(lambda: state_of(redis_server, "t").get("progress") == 40)
        assert state_of(redis_server, "t")["title"] == "A"
        assert state_of(redis_server, "t")["status"] == "in_progress"


def test_threads_may_report(flavour: Flavour, redis_server: RedisServer) -> None:
    with reporter(flavour, redis_server.url, rate=100.0) as report, report("t") as task:

        def work(number: int) -> None:
            for count in range(500):
                task.update(**{f"by{number}": count})

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: [state_of(redis_server, "t").get(f"by{number}") for number in range(4)] == [499] * 4)


def test_a_reporter_that_is_not_open_says_so(redis_server: RedisServer) -> None:
    async def main() -> None:
        report = relay_client.aio.TaskReporter(redis_server.url)
        with pytest.raises(RuntimeError, match="async with"):
            async with report("t"):
                pass

    asyncio.run(main())


@pytest.mark.parametrize(
    ("option", "value"), [("rate", 0), ("heartbeat", 0.0), ("heartbeat", float("inf")), ("on_error", "x")]
)
def test_options_are_checked(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        TaskReporter("redis://127.0.0.1:1/0", **{option: value})


def _report_in_child(report: TaskReporter, task: Any, url: str) -> None:
    with pytest.raises(RuntimeError, match="parent"):
        task.progress(1)
    with report("child") as own:
        own.progress(50)
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reports_on_tasks_of_its_own(redis_server: RedisServer) -> None:
    with TaskReporter(redis_server.url, on_error="raise") as report, report("parent") as task:
        task.progress(10)
        fork = multiprocessing.get_context("fork")
        child = fork.Process(target=_report_in_child, args=(report, task, redis_server.url))
        child.start()
        child.join(20)
        assert child.exitcode == 0
        task.progress(20)
    assert state_of(redis_server, "child")["status"] == "completed"
    assert updates_of(redis_server, "parent")[-1]["status"] == "completed"


def test_the_benchmark_runs(redis_server: RedisServer) -> None:
    script = ROOT / "clients" / "python" / "benchmarks" / "progress.py"
    command = [sys.executable, str(script), redis_server.url, "--seconds", "0.3"]
    ended = subprocess.run(command, check=True, timeout=20, capture_output=True, text=True)
    assert "10000 reports/s cost" in ended.stdout
    print(ended.stdout)


def test_the_running_list_knows_only_those_that_run(redis_server: RedisServer) -> None:
    with TaskReporter(redis_server.url) as report, redis_server.client() as client:
        bucket = int(keys.tag_of(keys.pubsub_channel("task:t")))
        with report("t"):
            assert client.zscore(keys.running(bucket), "t") is not None
        assert client.zscore(keys.running(bucket), "t") is None
        assert client.zscore(keys.tasks(bucket), "t") is not None
