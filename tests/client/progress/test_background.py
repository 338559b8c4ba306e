"""Reporting that never waits, without a Redis."""

import threading

import pytest
from relay_client import Publisher
from relay_client.progress.background import BackgroundReporter
from relay_client.progress.background_task import BackgroundTask, Opening
from relay_client.progress.schedule import Schedule
from relay_client.progress.task import Task
from relay_client.publishing.call import Call
from relay_client.updates import Updates
from relay_wire.publications import Retention

from tests.ports import free_port


def test_what_is_handed_over_waits_at_every_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a process looks whether something waits, while the sender's thread may just take it over."""
    waiting: list[int] = []
    both = threading.Event()
    add, release = Schedule.add, Schedule.release

    class Watched(dict[Task, float]):
        """The tasks that leave, which looks what waits before and after each of them is there."""

        def __setitem__(self, task: Task, until: float) -> None:
            waiting.append(reporter.waiting)
            super().__setitem__(task, until)
            waiting.append(reporter.waiting)

    def watched_add(schedule: Schedule, task: BackgroundTask) -> None:
        waiting.append(reporter.waiting)
        add(schedule, task)
        schedule._leaving = Watched(schedule._leaving)

    def watched_release(schedule: Schedule, task: BackgroundTask, until: float) -> None:
        waiting.append(reporter.waiting)
        release(schedule, task, until)
        both.set()

    monkeypatch.setattr(Schedule, "add", watched_add)
    monkeypatch.setattr(Schedule, "release", watched_release)
    with Publisher(f"redis://127.0.0.1:{free_port()}", timeout=0.1) as publisher:
        reporter = BackgroundReporter(publisher, exit_timeout=0.1)
        task = reporter.begin("t", {"status": "in_progress"})
        assert task is not None
        reporter.release(task, {"status": "completed"})
        assert both.wait(20)
        assert not reporter.flush()
        reporter.give_up()
    assert len(waiting) == 4
    assert all(waiting)


def test_an_announcement_that_is_too_long_is_left_out_alone() -> None:
    opening = Opening("attempt:1", {"status": "pending", "order": "x" * 1000})
    task = BackgroundTask("t", lambda task: None, opening)
    task.start_with({"status": "in_progress"})
    sent: list[Call] = []
    assert task.take(Updates(Retention(), sharded=False, max_bytes=500), sent.extend) == sent
    assert [call.channel for call in sent] == ["task:t"]
