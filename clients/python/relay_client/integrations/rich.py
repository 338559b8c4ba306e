"""rich: its progress displays as the progress of a task.

from relay_client.integrations.rich import Progress, track

For code that imports them from rich: ``relay_client.integrations.rich.install()``.
"""

from collections.abc import Callable
from typing import Any

from relay_client.integrations.bars import Bar
from relay_client.integrations.missing import missing
from relay_client.integrations.patching import wrap_method

try:
    import rich.progress
    from rich.text import Text
except ModuleNotFoundError as error:
    raise missing("rich 13.9 or newer", "rich") from error

_Method = Callable[..., Any]


def _bars(display: rich.progress.Progress) -> dict[Any, Bar]:
    bars: dict[Any, Bar] = vars(display).setdefault("_relay_bars", {})
    return bars


def _plain(description: str) -> str:
    return Text.from_markup(description).plain.strip()


def _report(display: rich.progress.Progress, task_id: Any) -> None:
    bar, task = _bars(display).get(task_id), display._tasks.get(task_id)
    if bar is None or task is None:
        return
    bar.set(task.completed, task.total, _plain(task.description))
    if task.finished:
        bar.close()


def _adding(add_task: _Method) -> _Method:
    def reporting(self: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        task_id = add_task(self, description, *args, **kwargs)
        if task_id not in _bars(self):
            _bars(self)[task_id] = Bar(_plain(description), self._tasks[task_id].total)
        return task_id

    return reporting


def _changing(change: _Method) -> _Method:
    def reporting(self: Any, task_id: Any, *args: Any, **kwargs: Any) -> Any:
        result = change(self, task_id, *args, **kwargs)
        _report(self, task_id)
        return result

    return reporting


def _stopping(stop: _Method) -> _Method:
    def reporting(self: Any) -> Any:
        for bar in _bars(self).values():
            bar.close()
        return stop(self)

    return reporting


def _exiting(leave: _Method) -> _Method:
    def reporting(self: Any, kind: Any, error: BaseException | None, trace: Any) -> Any:
        for bar in _bars(self).values():
            bar.close(error)
        return leave(self, kind, error, trace)

    return reporting


_WRAPPERS = {
    "add_task": _adding,
    "update": _changing,
    "advance": _changing,
    "reset": _changing,
    "stop": _stopping,
    "__exit__": _exiting,
}


def install() -> None:
    """Have every progress display of rich reported, wherever it is made in this process."""
    for name, make in _WRAPPERS.items():
        wrap_method(rich.progress.Progress, name, make)


class Progress(rich.progress.Progress):
    """rich's display, each of whose tasks is reported."""


for _name, _make in _WRAPPERS.items():
    setattr(Progress, _name, _make(getattr(rich.progress.Progress, _name)))


def track(sequence: Any, description: str = "Working...", total: float | None = None, **options: Any) -> Any:
    """Iterate over a sequence with a reported display.

    Args:
        sequence: The items.
        description: What is being done.
        total: Their number; by default their length.
        options: Those of `Progress`.
    """
    with Progress(*rich.progress.Progress.get_default_columns(), **options) as display:
        yield from display.track(sequence, total=total, description=description)
