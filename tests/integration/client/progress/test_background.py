"""Reporting that never waits: the order of what several processes say, what is merged, and what too much is."""

import subprocess
import sys
import threading

import pytest
from relay_client import Publisher, current_task
from relay_client.errors import DeliveryTimedOut
from relay_client.progress.background import BackgroundReporter
from relay_client.progress.background_task import BackgroundTask, Opening
from relay_client.progress.current import as_current
from relay_client.progress.schedule import Schedule
from relay_client.progress.task import Task
from relay_client.publishing.call import Call
from relay_client.updates import Updates
from relay_wire import scripts
from relay_wire.publications import Retention

from tests.harness import RedisServer
from tests.integration.client.reading import log_of, state_of

UPDATES = Updates(Retention(), sharded=False, max_bytes=1 << 18)

PENDING = {"status": "pending", "title": "A"}
RUNNING = {"status": "in_progress", "title": "A"}
ENDED = {"status": "completed"}


def test_outside_of_tasks_reports_go_nowhere() -> None:
    task = current_task()
    task.progress(40, "Rendering", stage="x", further=object())
    task.message("x")
    task.stage("y")
    assert (task.id, bool(task.cancelled), list(task.track([1, 2]))) == ("", False, [1, 2])


def test_the_current_task_is_of_its_thread() -> None:
    task = Task("t", {}, lambda task: None)
    seen = []
    with as_current(task):
        thread = threading.Thread(target=lambda: seen.append(current_task()))
        thread.start()
        thread.join()
        assert current_task() is task
    assert current_task() is seen[0] is not task


@pytest.mark.parametrize("worker_first", [False, True])
def test_a_producer_never_undoes_what_a_worker_has_said(redis_server: RedisServer, worker_first: bool) -> None:
    producer, worker = BackgroundReporter(redis_server.url), BackgroundReporter(redis_server.url)

    def announce() -> None:
        producer.report("t", opening=Opening("attempt:1", PENDING))
        assert producer.flush(60)

    def work() -> None:
        task = worker.begin("t", RUNNING, Opening("attempt:1", None, {"attempt": 1}))
        assert task is not None
        worker.release(task, ENDED)
        assert worker.flush(60)

    for happen in (work, announce) if worker_first else (announce, work):
        happen()
    assert state_of(redis_server, "t")["status"] == "completed"
    assert len(log_of(redis_server, "general")) == 1


def test_every_task_is_announced_once(redis_server: RedisServer) -> None:
    producer, worker = BackgroundReporter(redis_server.url), BackgroundReporter(redis_server.url)
    for reporter in (producer, worker):
        for name in ("t1", "t2", "t3"):
            reporter.report(name, opening=Opening("attempt:1", PENDING))
        assert reporter.flush(60)
    announced = [data["task_info"]["task_id"] for _, _, data in log_of(redis_server, "general")]
    assert announced == ["t1", "t2", "t3"]


def test_a_late_retry_never_undoes_the_next_attempt(redis_server: RedisServer) -> None:
    first, second = BackgroundReporter(redis_server.url), BackgroundReporter(redis_server.url)
    task = first.begin("t", RUNNING, Opening("attempt:1", PENDING, {"attempt": 1}))
    assert task is not None
    assert first.flush(60)
    next_attempt = second.begin("t", RUNNING, Opening("attempt:2", None, {"attempt": 2}))
    assert next_attempt is not None
    second.release(next_attempt, ENDED)
    assert second.flush(60)
    first.release(task, {"status": "pending", "message": "again"}, key="attempt:2", is_final=False)
    assert first.flush(60)
    state = state_of(redis_server, "t")
    assert (state["status"], state["attempt"]) == ("completed", 2)


def test_an_end_that_waits_for_redis_is_merged_and_arrives(redis_server: RedisServer) -> None:
    reporter = BackgroundReporter(Publisher(redis_server.url, deadline=0.3, timeout=0.3))
    redis_server.freeze()
    task = reporter.begin("t", RUNNING, Opening("attempt:1", PENDING, {"attempt": 1}))
    assert task is not None
    for progress in range(100):
        task.progress(progress)
    reporter.release(task, ENDED)
    assert not reporter.flush(1.0)
    redis_server.thaw()
    assert reporter.flush(60)
    state = state_of(redis_server, "t")
    assert (state["status"], state["progress"], reporter.waiting) == ("completed", 99, 0)


def test_too_much_is_dropped_and_counted_and_ends_have_more_room(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.freeze()
    reporter = BackgroundReporter(redis_server.url, max_tasks=4)
    taken = [reporter.report(f"t{number}", PENDING) for number in range(6)]
    assert taken == [True] * 4 + [False] * 2
    assert reporter.report("end", ENDED, is_final=True)
    assert reporter.dropped == 2
    assert len([record for record in caplog.records if "not reported" in record.message]) == 1
    redis_server.thaw()
    assert reporter.flush(60)
    assert state_of(redis_server, "end")["status"] == "completed"


def test_reports_on_one_task_stay_in_order_when_the_first_fails() -> None:
    schedule = Schedule(UPDATES, rate=10.0, heartbeat=20.0)
    first, second = BackgroundTask("t", schedule.note), BackgroundTask("t", schedule.note)
    for task, fields in ((first, RUNNING), (second, ENDED)):
        task.close(fields)
        schedule.release(task, until=1e9)
    sent: list[Call] = []
    (sending,) = schedule.put_due(100.0, sent.extend)
    assert sending.task is first
    sent[0].settle(None, DeliveryTimedOut("away", "t"))
    schedule.settle([sending], 101.0)
    assert schedule.put_due(101.5, sent.extend) == []  # the first is tried again later, and the second waits for it
    (sending,) = schedule.put_due(103.0, sent.extend)
    assert sending.task is first


#: Prints what was imported while tasks were reported.
LATE_IMPORTS = """
import sys
from relay_client.integrations.job import Job
from relay_client.integrations.job_reporter import JobReporter

jobs = JobReporter({"publisher": sys.argv[1]})
before = set(sys.modules)
jobs.enqueued(Job("t", "name"))
jobs.started(Job("t", "name"))
jobs.flush()
jobs.succeeded("t")
jobs.flush()
print(sorted(set(sys.modules) - before))
"""


def test_no_thread_imports_anything_while_a_process_may_fork(redis_server: RedisServer) -> None:
    command = [sys.executable, "-c", LATE_IMPORTS, redis_server.url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"
    assert state_of(redis_server, "t")["status"] == "completed"


def test_a_script_that_redis_has_forgotten_does_not_undo_the_end(redis_server: RedisServer) -> None:
    """Redis was restarted, and others have published since: it knows the script of updates, and not the one that creates."""
    reporter = BackgroundReporter(redis_server.url)
    for number in range(2):
        with redis_server.client() as client:
            client.script_flush()
            client.script_load(scripts.load("publish").source)
            client.client_kill_filter(_type="normal", skipme=True)  # redis-py connects again, without a word
        opening = Opening("attempt:1", {"status": "pending", "title": "Quick"})
        reporter.report(f"t{number}", {"status": "completed", "progress": 100}, opening, is_final=True)
        assert reporter.flush(60)
        assert state_of(redis_server, f"t{number}") == {"status": "completed", "title": "Quick", "progress": 100}
