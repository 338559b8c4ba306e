"""What a task reports, merged without Redis: nothing is lost, however it is cut up, delivered late, or not at all."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_client import BufferFull, TaskCancelled
from relay_client.progress.outcome import error_text, terminal_fields
from relay_client.progress.schedule import Schedule
from relay_client.progress.task import Task
from relay_client.publishing.call import Call
from relay_client.updates import Updates
from relay_wire.position import Position
from relay_wire.publications import Retention

UPDATES = Updates(Retention(), sharded=False, max_bytes=100_000)


def fields_of(call: Call) -> dict[str, Any]:
    """The fields that a call adds to the task's state: the update's data."""
    fields: dict[str, Any] = json.loads(call.values[14])
    return fields


class Reported:
    """A task, and what was put in line of it."""

    def __init__(self, **info: Any) -> None:
        self.noted = 0
        self.task = Task("t", info, self._note)
        self.task.begin(UPDATES, announce=True)
        self.put: list[Call] = []

    def _note(self, task: Task) -> None:
        self.noted += 1

    def take(self) -> list[dict[str, Any]]:
        return [fields_of(call) for call in self.task.take(UPDATES, self.put.extend)]

    def end(self, status: str = "completed", **fields: Any) -> list[dict[str, Any]]:
        return [fields_of(call) for call in self.task.end(UPDATES, self.put.extend, status, fields)]


def test_reports_are_merged_until_they_are_taken() -> None:
    reported = Reported()
    reported.task.progress(1, "a", eta=5)
    reported.task.progress(2)
    reported.task.update(eta=4, tags=["x"])
    assert reported.noted == 1
    assert reported.take() == [{"progress": 2, "message": "a", "eta": 4, "tags": ["x"]}]
    assert reported.take() == []
    reported.task.progress(3)
    assert reported.noted == 2


def test_values_are_those_of_the_moment_and_equal_ones_are_not_sent_again() -> None:
    reported = Reported()
    tags = ["a"]
    reported.task.update(tags=tags, done=1)
    tags.append("b")
    assert reported.take() == [{"tags": ["a"], "done": 1}]
    reported.task.update(tags=tags, done=1)
    assert reported.take() == [{"tags": ["a", "b"]}]
    reported.task.update(done=True)
    assert reported.take() == [{"done": True}]


def test_stages_stay_apart_up_to_a_bound() -> None:
    reported = Reported()
    reported.task.progress(1, stage="a")
    reported.task.progress(2, stage="a")
    reported.task.progress(3, stage="b")
    reported.task.progress(4)
    assert reported.take() == [{"progress": 2, "stage": "a"}, {"progress": 4, "stage": "b"}]
    for number in range(100):
        reported.task.progress(number, stage=f"s{number}")
    taken = reported.take()
    assert [part["stage"] for part in taken] == [f"s{number}" for number in range(83, 100)]


def test_the_end_carries_what_is_not_acknowledged() -> None:
    reported = Reported()
    reported.task.progress(1, "first")
    reported.task.acknowledged(0.0) if reported.take() else None
    reported.task.progress(97, eta=1)
    assert reported.take() == [{"progress": 97, "eta": 1}]
    reported.task.progress(98)
    assert reported.end(progress=100) == [
        {"progress": 98},
        {"progress": 100, "eta": 1, "status": "completed"},
    ]
    reported.task.requeue()  # too late
    assert reported.take() == []
    with pytest.raises(RuntimeError, match="has ended"):
        reported.task.progress(1)
    with pytest.raises(RuntimeError, match="has ended"):
        reported.end()


def test_redis_forgot_all_is_told_again() -> None:
    reported = Reported(title="A")
    reported.task.progress(50, "half")
    reported.take()
    reported.task.acknowledged(0.0)
    reported.task.progress(60)
    reported.task.requeue_all()
    (told,) = reported.take()
    assert told.pop("created_at")
    assert told.pop("started_at")
    assert told == {"title": "A", "status": "in_progress", "progress": 60, "message": "half"}


@pytest.mark.parametrize("progress", [-1, 101, float("nan"), float("inf")])
def test_progress_is_in_percent(progress: float) -> None:
    with pytest.raises(ValueError, match="0 to 100"):
        Reported().task.progress(progress)


def test_what_cannot_be_published_is_an_error_where_it_is_reported() -> None:
    reported = Reported()
    for wrong in (object(), b"x", {1: object()}):
        with pytest.raises((TypeError, ValueError)):
            reported.task.update(field=wrong)
    with pytest.raises(TypeError):
        reported.task.progress("half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="240 fields"):
        reported.task.update(**{f"f{number}": number for number in range(300)})
    assert reported.take() == []
    with pytest.raises(ValueError, match="1 to 255"):
        Task("", {}, print)
    with pytest.raises(TypeError):
        Task("t", {"title": object()}, print)
    assert len(Task(None, {}, print).id) == 32


def test_what_is_too_long_together_is_told_one_by_one() -> None:
    reported = Reported()
    reported.task.progress(1, "x" * 60_000, other="y" * 60_000)
    each = [{"progress": 1}, {"message": "x" * 60_000}, {"other": "y" * 60_000}]
    assert sorted(reported.take(), key=str) == sorted(each, key=str)
    # They were not acknowledged: they are sent again, and then the end.
    *again, last = reported.end()
    assert sorted(again, key=str) == sorted(each, key=str)
    assert last == {"status": "completed"}
    assert reported.task.failure is None


def test_cancelling_is_raised_where_it_next_reports() -> None:
    reported = Reported()
    before = bool(reported.task.cancelled)
    reported.task.request_cancel("by its owner")
    assert (before, bool(reported.task.cancelled)) == (False, True)
    with pytest.raises(TaskCancelled, match="by its owner"):
        reported.task.progress(1)
    assert reported.end("cancelled") == [{"status": "cancelled"}]


def test_tracking_counts_what_is_done() -> None:
    reported = Reported()
    seen = []
    for item in reported.task.track(["a", "b"], message="letters", stage="read"):
        seen += [(item, part) for part in reported.take()]
    assert seen == [
        ("a", {"progress": 0, "message": "letters", "stage": "read", "done": 0, "total": 2}),
        ("b", {"progress": 50, "done": 1}),
    ]
    assert reported.take() == [{"progress": 100, "done": 2}]
    for _ in reported.task.track(iter(range(4)), total=8, start=20, end=60):
        pass
    assert reported.take() == [{"progress": 40, "done": 4, "total": 8}]
    for _ in reported.task.track(letter for letter in "abc"):
        pass
    assert reported.take() == [{"done": 3}]
    for _ in reported.task.track([]):
        pass
    with pytest.raises(ValueError, match="start and end"):
        next(reported.task.track([1], start=60, end=20))


async def test_tracking_what_comes_later() -> None:
    reported = Reported()

    async def letters() -> Any:
        for letter in "abc":
            yield letter

    assert [letter async for letter in reported.task.atrack(letters(), total=3)] == ["a", "b", "c"]
    assert reported.take() == [{"progress": 100, "done": 3, "total": 3}]


def test_how_errors_end_a_task() -> None:
    assert terminal_fields(None)[0] == "completed"
    assert terminal_fields(ValueError("bad"))[1]["error"] == "ValueError: bad"
    assert error_text(ValueError()) == "ValueError"
    assert len(error_text(ValueError("x" * 10_000))) == 2000
    for cancelled in (KeyboardInterrupt(), TaskCancelled(), BaseExceptionGroup("", [KeyboardInterrupt()])):
        assert terminal_fields(cancelled)[0] == "cancelled"
    mixed = BaseExceptionGroup("", [KeyboardInterrupt(), ExceptionGroup("", [ValueError("bad")])])
    assert terminal_fields(mixed)[0] == "failed"


def test_schedule_sends_at_its_rate_and_beats_when_there_is_nothing() -> None:
    schedule = Schedule(UPDATES, rate=10.0, heartbeat=20.0)
    task = Task("t", {}, schedule.note)
    assert schedule.wait(0.0) is None
    task.begin(UPDATES, announce=False)
    now = task.last_sent
    schedule.add(task)
    assert schedule.wait(now) == pytest.approx(20.0)
    sent: list[tuple[float, dict[str, Any]]] = []
    start = now
    for tick in range(1000):  # one second, a report each millisecond
        task.progress(tick / 10)
        now = start + tick / 1000
        sending = schedule.put_due(now, lambda calls: None)
        sent += [(now, fields_of(call)) for each in sending for call in each.calls]
        for each in sending:
            each.task.acknowledged(now)
    assert 9 <= len(sent) <= 11
    assert all(later - earlier >= 0.0999 for (earlier, _), (later, _) in itertools.pairwise(sent))
    wait = schedule.wait(now)
    assert wait is not None
    assert wait <= 0.1
    (last,) = schedule.put_due(now + 0.2, lambda calls: None)
    assert fields_of(last.calls[0]) == {"progress": 99.9}
    task.acknowledged(now + 0.2)
    (beat,) = schedule.put_due(now + 20.3, lambda calls: None)
    assert beat.is_heartbeat
    schedule.remove(task)
    assert schedule.wait(now) is None


def test_schedule_has_its_sender_woken_only_for_what_it_does_not_look_at_by_itself() -> None:
    schedule = Schedule(UPDATES, rate=10.0, heartbeat=20.0)
    woken: list[bool] = []
    sent: list[Call] = []
    task = Task("t", {}, lambda task: woken.append(schedule.note(task)))
    task.begin(UPDATES, announce=False)
    now = task.last_sent
    schedule.add(task)

    def collect(seconds: float) -> float | None:
        return schedule.collect(now + seconds, sent.extend)

    assert collect(0.0) == pytest.approx(20.0)
    task.progress(1)
    assert woken == [True]  # it may be sent at once, and the sender sleeps until the heartbeat
    assert collect(1.0) is None
    for call in sent:
        call.settle(Position("e", 1), None)
    assert collect(1.01) == pytest.approx(0.09)  # it looks when the next one may be sent
    task.progress(2)
    assert woken == [True, False]
    assert collect(1.1) is None
    assert [fields_of(call) for call in sent] == [{"progress": 1}, {"progress": 2}]
    task.progress(3)
    assert woken == [True, False, False]  # it looks when these have arrived
    sent[-1].settle(Position("e", 2), None)
    assert collect(1.15) == pytest.approx(0.05)


def test_what_is_noted_while_the_sender_falls_asleep_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(UPDATES, rate=10.0, heartbeat=20.0)
    woken: list[bool] = []
    task = Task("t", {}, lambda task: woken.append(schedule.note(task)))
    task.begin(UPDATES, announce=False)
    now = task.last_sent
    schedule.add(task)
    wait = Schedule.wait

    def wait_while_it_is_reported(schedule: Schedule, now: float) -> float | None:
        seconds = wait(schedule, now)
        task.progress(1)
        return seconds

    monkeypatch.setattr(Schedule, "wait", wait_while_it_is_reported)
    seconds = schedule.collect(now, lambda calls: None)
    assert woken == [False]
    assert seconds is not None
    assert seconds == pytest.approx(0.01)


def test_schedule_keeps_what_has_no_room() -> None:
    schedule = Schedule(UPDATES, rate=10.0, heartbeat=20.0)
    task = Task("t", {}, schedule.note)
    task.begin(UPDATES, announce=False)
    schedule.add(task)
    task.progress(5)

    def full(calls: list[Call]) -> None:
        raise BufferFull("full")

    now = task.last_sent
    assert schedule.put_due(now, full) == []
    task.progress(6)
    (sending,) = schedule.put_due(now + 2.0, lambda calls: None)
    assert fields_of(sending.calls[0]) == {"progress": 6}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("report"), st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), min_size=1)),
        st.tuples(st.just("stage"), st.sampled_from("xyz")),
        st.tuples(st.sampled_from(["take", "acknowledge", "lose", "forget"]), st.none()),
    ),
    max_size=50,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_the_last_value_of_every_field_arrives(steps: Sequence[tuple[str, Any]]) -> None:
    reported = Reported()
    expected: dict[str, Any] = {}
    redis: dict[str, Any] = {}
    taken: list[dict[str, Any]] = []
    for action, value in [*steps, ("acknowledge", None)]:
        match action:
            case "report":
                reported.task.update(**value)
                expected.update(value)
            case "stage":
                reported.task.progress(stage=value)
                expected["stage"] = value
            case "take" if not taken:
                taken = reported.take()
            case "acknowledge":
                for part in taken:
                    redis.update(part)
                taken = []
                reported.task.acknowledged(0.0)
            case "lose":
                taken = []
                reported.task.requeue()
            case "forget" if not taken:
                redis = {}
                reported.task.requeue_all()
    redis.update(reported.end()[-1] if not taken else {})
    assert {name: redis.get(name) for name in expected} == expected
