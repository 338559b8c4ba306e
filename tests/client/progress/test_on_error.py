"""What a report cannot say: repaired, logged or raised, and never the end of the work."""

import logging
from typing import Any

import pytest
from relay_client import TaskCancelled, TaskReporter
from relay_client.progress.task import Task


def fields_after(on_error: str, **reported: Any) -> dict[str, Any]:
    task = Task("t", {}, lambda _task: None, on_error=on_error)
    task.progress(**reported)
    return dict(task._changes.fields)


class Hostile:
    """Raises wherever it is looked at."""

    def __str__(self) -> str:
        raise ZeroDivisionError

    def __float__(self) -> float:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(100.00000000000001, 100), (-1e-15, 0), (100.0004, 100), (True, 1), (50, 50), (99.5, 99.5)],
)
@pytest.mark.parametrize("on_error", ["log", "raise"])
def test_a_rounding_error_is_no_error(progress: float, expected: float, on_error: str) -> None:
    assert fields_after(on_error, progress=progress) == {"progress": expected}


@pytest.mark.parametrize("on_error", ["log", "raise"])
def test_what_is_not_a_number_becomes_null(on_error: str) -> None:
    reported = fields_after(on_error, loss=float("nan"), nested={"a": [float("inf"), 1.5]})
    assert reported == {"loss": None, "nested": {"a": [None, 1.5]}}


@pytest.mark.parametrize("progress", [101, -1, float("nan"), float("inf"), "half", object(), Hostile()])
def test_progress_out_of_range_is_left_out_and_the_rest_is_reported(
    progress: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "relay_client"):
        reported = fields_after("log", progress=progress, message="half", stage="s", good=1)
    assert reported == {"message": "half", "stage": "s", "good": 1}
    assert "task t" in caplog.text
    with pytest.raises((TypeError, ValueError, ZeroDivisionError)):
        fields_after("raise", progress=progress)


def test_what_cannot_be_published_is_left_out_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    task = Task("t", {"title": object(), "tier": "gold"}, lambda _task: None, on_error="log")
    with caplog.at_level(logging.WARNING, "relay_client"):
        for _ in range(100):
            task.progress(10, Hostile(), wrong=object(), hostile=Hostile(), good=2)  # type: ignore[arg-type]
        task.update(**{f"f{number}": number for number in range(400)})
    assert task._info == {"tier": "gold"}
    assert task._changes.fields["good"] == 2
    assert 200 < len(task._changes.fields) <= 240
    assert len(caplog.records) <= 1


def test_tracking_never_breaks_the_loop() -> None:
    task = Task("t", {}, lambda _task: None, on_error="log")
    assert list(task.track(range(3), start=-40, end=1e9)) == [0, 1, 2]
    assert task._changes.fields["progress"] == 100
    task.abandon()
    assert list(task.track(range(3))) == [0, 1, 2]


def test_after_its_end_a_report_is_logged_and_a_cancellation_is_raised() -> None:
    task = Task("t", {}, lambda _task: None, on_error="log")
    task.request_cancel("by its owner")
    with pytest.raises(TaskCancelled, match="by its owner"):
        task.progress(1)
    ended = Task("t", {}, lambda _task: None, on_error="log")
    ended.abandon()
    ended.progress(1)
    strict = Task("t", {}, lambda _task: None)
    strict.abandon()
    with pytest.raises(RuntimeError, match="has ended"):
        strict.progress(1)


def test_it_can_be_said_once_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TaskReporter("redis://127.0.0.1:1/0")._on_error == "log"
    monkeypatch.setenv("RELAY_ON_ERROR", "raise")
    assert TaskReporter("redis://127.0.0.1:1/0")._on_error == "raise"
    assert TaskReporter("redis://127.0.0.1:1/0", on_error="log")._on_error == "log"
    monkeypatch.setenv("RELAY_ON_ERROR", "ignore")
    with pytest.raises(ValueError, match="RELAY_ON_ERROR"):
        TaskReporter("redis://127.0.0.1:1/0")
