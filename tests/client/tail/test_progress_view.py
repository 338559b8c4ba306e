"""`relay tail` on a terminal: what the progress bars show."""

import io
import re
from typing import Any

import pytest
import trio
from relay_client.subscriber import Position, Update
from relay_client.tail.progress_view import ProgressView, printable
from rich.console import Console


def update(task_id: str | None, **state: Any) -> Update:
    channel = "general" if task_id is None else f"task:{task_id}"
    kind: Any = "general_update" if task_id is None else "task_update"
    return Update(channel, kind, state, state, Position("e", 1), "{}")


def shown(view: ProgressView, height: int = 12) -> list[str]:
    console = Console(width=100, height=height, record=True, file=io.StringIO())
    view._console = console
    console.print(view.table())
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_progress_view_shows_what_runs_and_what_ended_last_as_far_as_it_fits() -> None:
    view = ProgressView()
    for number in range(20):
        view.show(update(f"task{number}", status="in_progress", progress=number))
    for number in (3, 1, 2):
        view.show(update(f"task{number}", status="completed"))
    lines = shown(view, height=8)
    assert [line.split()[0] for line in lines[:-1]] == ["task0", "task4", "task5", "task6", "task7"]
    assert lines[-1] == "and 15 more"
    for number in range(20):
        if number not in (1, 2, 3, 7):
            view.forget(f"task{number}")
    assert [line.split()[:2] for line in shown(view)] == [
        ["task7", "in_progress"],
        ["task2", "completed"],
        ["task1", "completed"],
        ["task3", "completed"],
    ]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "t"),
        ({"status": "in_progress", "stalled": True, "progress": 5}, "t stalled 5%"),
        ({"status": "in_progress", "progress": 250}, "t in_progress 100%"),
        ({"status": "in_progress", "progress": -1}, "t in_progress 0%"),
        ({"status": "in_progress", "progress": "half"}, "t in_progress"),
        ({"status": "in_progress", "progress": True}, "t in_progress"),
        ({"status": "completed"}, "t completed 100%"),
        ({"status": 7, "message": ["a"]}, 't ["a"]'),
        ({"status": "cancelled", "message": "[red]no markup[/red]"}, "t cancelled [red]no markup[/red]"),
        ({"status": "failed", "error": "why", "stage": "s", "message": "m"}, "t failed why · s · m"),
    ],
)
def test_progress_view_takes_any_state(state: dict[str, Any], text: str) -> None:
    view = ProgressView()
    view.show(update("t", **state))
    [line] = shown(view)
    assert re.sub(r"[━╸╺ ]+", " ", line).strip() == text


async def test_progress_view_leaves_out_what_nobody_could_read() -> None:
    console = Console(width=100, height=12, record=True, force_terminal=True, file=io.StringIO())
    view = ProgressView(console)
    for number in range(80):
        view.show(update(None, n=number))
    async with trio.open_nursery() as nursery:
        await nursery.start(view.run)
        nursery.cancel_scope.cancel()
    text = console.export_text()
    assert "# 30 lines omitted" in text
    assert '{"n": 29}' not in text
    assert '{"n": 30}' in text
    assert '{"n": 79}' in text


def test_printable() -> None:
    assert printable("a\nb\x1b[0m\x9b\u202ec ü☃") == "a�b�[0m��c ü☃"
    assert printable({"a": "é"}) == '{"a": "é"}'
