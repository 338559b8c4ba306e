"""Requests to cancel jobs, without a Redis: each stops the job that it is for."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest
from relay_client import Publisher, TaskCancelled, current_task
from relay_client.cancellation.watches import Watch
from relay_client.integrations.job import Job
from relay_client.integrations.job_reporter import JobReporter

from tests.ports import free_port

PATIENCE = 20.0


class Listener:
    """Receives nothing; says what is watched."""

    def __init__(self) -> None:
        self.watched: SimpleQueue[tuple[str, Callable[[str], object]]] = SimpleQueue()
        self.closed: SimpleQueue[str] = SimpleQueue()

    def watch(self, task_id: str, on_cancel: Callable[[str], object]) -> Watch:
        self.watched.put((task_id, on_cancel))
        return Watch(task_id, on_cancel, lambda watch: self.closed.put(watch.task_id))


def stop_threads_have_ended() -> None:
    for thread in threading.enumerate():
        if thread.name == "relay-stop":
            thread.join(PATIENCE)


def test_a_request_stops_its_job_and_not_the_one_after_it() -> None:
    with Publisher(f"redis://127.0.0.1:{free_port()}", timeout=0.1) as publisher:
        jobs = JobReporter({"publisher": publisher, "exit_timeout": 0.0})
        listener: Any = Listener()
        jobs._listener = listener
        stopped: list[str] = []
        jobs.started(Job("t", "name"), stopped.append)
        task_id, first = listener.watched.get(timeout=PATIENCE)
        assert task_id == "t"
        jobs.failed("t", "broken")
        assert listener.closed.get(timeout=PATIENCE) == "t"
        jobs.started(Job("t", "name", attempt=2), stopped.append)
        _, second = listener.watched.get(timeout=PATIENCE)
        first("too late")
        stop_threads_have_ended()
        current_task().progress(40)
        assert not stopped
        second("enough")
        stop_threads_have_ended()
        assert stopped == ["enough"]
        with pytest.raises(TaskCancelled):
            current_task().progress(50)
        jobs.cancelled("t")
        jobs.leave()
        assert listener.closed.get(timeout=PATIENCE) == "t"
        jobs.reporter.give_up()
