"""Progress counted in items: how many are done, and the share of the task's progress that this makes."""

from collections.abc import Callable
from operator import length_hint

from relay_client.progress.values import percentage


def checked_range(start: float, end: float) -> tuple[float, float]:
    """Return the progress before the first and after the last item. Raises TypeError or ValueError."""
    start, end = percentage(start), percentage(end)
    if start > end:
        raise ValueError(f"start and end are from 0 to 100, not {start!r} and {end!r}")
    return start, end


class ItemCounter:
    """Reports how many items of a task are done."""

    def __init__(self, report: Callable[..., None], items: object, total: int | None, start: float, end: float) -> None:
        """Make a counter.

        Args:
            report: A task's method `progress`.
            items: What is counted; their length is the total where there is none.
            total: Their number, or None.
            start: The progress before the first item, in percent.
            end: The progress after the last item, in percent.
        """
        self._report = report
        self._done = 0
        self._total = (length_hint(items, -1) if total is None else total) or 0
        self._start, self._end = start, end

    def begin(self, message: str | None, stage: str | None) -> None:
        """Report that no item is done."""
        counted = {"done": 0, "total": self._total} if self._total > 0 else {"done": 0}
        self._report(self._start if self._total > 0 else None, message, stage=stage, **counted)

    def count(self) -> None:
        """Report that one more item is done."""
        self._done += 1
        if self._total > 0:
            part = min(1.0, self._done / self._total)
            self._report(round(self._start + (self._end - self._start) * part, 2), done=self._done)
        else:
            self._report(done=self._done)
