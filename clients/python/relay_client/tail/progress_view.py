"""`relay tail` on a terminal: a progress bar for each task, general updates as lines above.

Published text is shown as it is: no markup is interpreted, and no control character reaches the terminal.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import trio
from relay_wire.statuses import CANCELLED, COMPLETED, FAILED, IN_PROGRESS, PENDING, TERMINAL
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relay_client.subscriber import Update

#: Seconds between two redraws.
_REFRESH = 0.1

#: Lines above the bars that are printed at a time; of more, only the last.
_MAX_LINES = 50

#: Lines of the terminal that are left free below the bars.
_MARGIN = 2

_STALLED = "stalled"
_STYLES = {
    PENDING: "white",
    IN_PROGRESS: "cyan",
    COMPLETED: "green",
    FAILED: "red",
    CANCELLED: "magenta",
    _STALLED: "yellow",
}


def printable(value: object) -> str:
    """Return published text as one line without control characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _status(state: Mapping[str, Any]) -> str:
    status = state.get("status")
    if status == IN_PROGRESS and state.get("stalled") is True:
        return _STALLED
    return status if isinstance(status, str) else ""


def _percent(state: Mapping[str, Any]) -> float | None:
    progress = state.get("progress")
    if isinstance(progress, int | float) and not isinstance(progress, bool) and math.isfinite(progress):
        return min(100.0, max(0.0, float(progress)))
    return 100.0 if state.get("status") == COMPLETED else None


def _row(task_id: str, state: Mapping[str, Any]) -> tuple[Text, Text, ProgressBar | Text, Text, Text]:
    status = _status(state)
    style = _STYLES.get(status, "white")
    percent = _percent(state)
    texts = [state.get("error") if status == FAILED else None, state.get("stage"), state.get("message")]
    return (
        Text(printable(task_id), no_wrap=True, overflow="ellipsis"),
        Text(printable(status), style=style, no_wrap=True, overflow="ellipsis"),
        Text("") if percent is None else ProgressBar(100, percent, complete_style=style, finished_style=style),
        Text("" if percent is None else f"{percent:.0f}%"),
        Text(
            " \N{MIDDLE DOT} ".join(printable(text) for text in texts if text not in (None, "")),
            no_wrap=True,
            overflow="ellipsis",
        ),
    )


class ProgressView:
    """The view of a terminal. Shows what fits: running tasks in the order in which they came, then those that ended last."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._states: dict[str, Mapping[str, Any]] = {}
        self._lines: list[Text] = []
        self._omitted = 0
        self._is_dirty = True

    def show(self, update: Update) -> None:
        """Move the bar of a task, or print a general update as a line."""
        task_id = update.task_id
        if task_id is None:
            if not update.is_reset:
                self._print(Text(printable(update.data)))
            return
        if update.state.get("status") in TERMINAL and self._status_of(task_id) not in TERMINAL:
            self._states.pop(task_id, None)  # the task that ended last comes last
        self._states[task_id] = update.state
        self._is_dirty = True

    def _status_of(self, task_id: str) -> object:
        return self._states.get(task_id, {}).get("status")

    def forget(self, task_id: str) -> None:
        """Remove the bar of a task."""
        self._states.pop(task_id, None)
        self._is_dirty = True

    def remark(self, text: str) -> None:
        """Print a dim line."""
        self._print(Text(f"# {printable(text)}", style="dim"))

    def _print(self, line: Text) -> None:
        line.no_wrap, line.overflow = True, "ellipsis"
        self._lines.append(line)
        if len(self._lines) > _MAX_LINES:
            del self._lines[0]
            self._omitted += 1
        self._is_dirty = True

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Draw until cancelled. The last picture stays in the terminal."""
        with Live(console=self._console, auto_refresh=False, get_renderable=self.table) as live:
            task_status.started()
            try:
                while True:
                    self._draw(live)
                    await trio.sleep(_REFRESH)
            finally:
                self._draw(live)

    def _draw(self, live: Live) -> None:
        if not self._is_dirty:
            return
        self._is_dirty = False
        lines, self._lines = self._lines, []
        if self._omitted:
            lines.insert(0, Text(f"# {self._omitted} lines omitted", style="dim"))
            self._omitted = 0
        if lines:
            live.console.print(Group(*lines))
        live.refresh()

    def table(self) -> Table:
        """Return the bars, as many as fit."""
        room = max(1, self._console.height - _MARGIN)
        running = [task_id for task_id in self._states if self._status_of(task_id) not in TERMINAL]
        ended = [task_id for task_id in reversed(self._states) if self._status_of(task_id) in TERMINAL]
        tasks = running + ended
        if len(tasks) > room:
            tasks = tasks[: room - 1]
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(ratio=3, max_width=32)
        table.add_column(width=11)
        table.add_column(ratio=3)
        table.add_column(width=4, justify="right")
        table.add_column(ratio=6)
        for task_id in tasks:
            table.add_row(*_row(task_id, self._states[task_id]))
        if len(tasks) < len(self._states):
            table.add_row(Text(f"and {len(self._states) - len(tasks)} more", style="dim", no_wrap=True))
        return table
