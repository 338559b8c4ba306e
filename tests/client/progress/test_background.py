"""Reporting that never waits, without a Redis."""

import json
import threading
from time import monotonic
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from relay_client import Publisher
from relay_client.progress import background
from relay_client.progress.background import BackgroundReporter
from relay_client.progress.background_task import BackgroundTask, Opening
from relay_client.progress.schedule import Schedule
from relay_client.progress.task import Task
from relay_client.publishing.call import Call
from relay_client.publishing.connection import Connection
from relay_client.publishing.exchange import Exchange
from relay_client.updates import Updates
from relay_wire.channels import MAX_FIELDS
from relay_wire.publications import Retention
from relay_wire.redis_urls import RedisTarget

from tests.ports import free_port

UPDATES = Updates(Retention(), sharded=False, max_bytes=100_000)


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
    task.set_first_fields({"status": "in_progress"})
    sent: list[Call] = []
    assert task.take(Updates(Retention(), sharded=False, max_bytes=500), sent.extend) == sent
    assert [call.channel for call in sent] == ["task:t"]


def test_first_fields_that_come_late_replace_nothing_that_was_reported() -> None:
    task = BackgroundTask("t", lambda task: None)
    task.progress(40, stage="first")
    task.progress(60, stage="second")
    task.set_first_fields({"status": "in_progress", "progress": 0})
    sent: list[Call] = []
    task.take(UPDATES, sent.extend)
    assert [json.loads(call.values[14]) for call in sent] == [
        {"stage": "first", "progress": 40, "status": "in_progress"},
        {"stage": "second", "progress": 60},
    ]


def test_a_task_that_is_full_has_room_for_its_beginning_and_its_end() -> None:
    task = BackgroundTask("t", lambda task: None)
    for number in range(MAX_FIELDS):
        task.update(**{f"field{number}": number})
    task.set_first_fields({"status": "in_progress", "worker": "w"})
    task.close({"status": "completed", "completed_at": "now"})
    sent: list[Call] = []
    task.take(UPDATES, sent.extend)
    fields = json.loads(sent[-1].values[14])
    assert (fields["status"], fields["worker"], fields["completed_at"]) == ("completed", "w", "now")
    assert len(fields) == MAX_FIELDS - 16 + 3


class Slow(Connection):
    """A Redis that has not answered yet, until it fails."""

    def __init__(self, target: RedisTarget, timeout: float) -> None:
        super().__init__(target, timeout)
        self.fails = threading.Event()

    async def exchange(self, exchange: Exchange) -> list[Any]:
        assert self.fails.wait(30)
        raise RedisConnectionError("refused")

    async def close(self) -> None:
        pass

    async def _drop(self, connection: Any) -> None:
        pass


@pytest.mark.parametrize("fails", [False, True])
def test_the_end_of_a_process_waits_longer_while_no_try_has_failed(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    made: list[Slow] = []

    def connect(*args: Any) -> Slow:
        made.append(Slow(*args[:2]))
        return made[-1]

    monkeypatch.setattr(background, "_BUSY_SECONDS", 60.0 if fails else 0.3)
    publisher = Publisher("redis://127.0.0.1:1", timeout=0.1)
    publisher.sender._connect = connect
    publisher.sender.reset()
    reporter = BackgroundReporter(publisher, exit_timeout=0.01, end_timeout=0.01)
    reporter.report("t", {"status": "completed"}, is_final=True)
    if fails:
        made[0].fails.set()
    began = monotonic()
    assert not reporter.flush()
    assert (monotonic() - began < 30) if fails else (monotonic() - began >= 0.3)
    made[0].fails.set()
    reporter.give_up()
