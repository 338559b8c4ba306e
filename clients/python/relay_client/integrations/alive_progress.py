"""alive-progress: a bar as the progress of a task.

from relay_client.integrations.alive_progress import alive_bar, alive_it
"""

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from relay_client.integrations.bars import Bar
from relay_client.integrations.missing import missing

try:
    import alive_progress
except ModuleNotFoundError as error:
    raise missing("alive-progress 3.1 or newer", "alive-progress") from error

_T = TypeVar("_T")


class _Handle:
    """The handle of a bar, as alive-progress gives it, reported."""

    def __init__(self, handle: Any, bar: Bar, total: int | None) -> None:
        vars(self).update(_handle=handle, _bar=bar, _total=total)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._handle(*args, **kwargs)
        self._bar.set(self._handle.current, self._total)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._handle, name, value)
        if name == "text" and value is not None:
            self._bar.set(self._handle.current, self._total, str(value))


@contextmanager
def alive_bar(total: int | None = None, **options: Any) -> Iterator[Any]:
    """Show and report a bar; the arguments are those of alive-progress."""
    # In its manual mode a bar counts from 0 to 1.
    counted = 1 if options.get("manual") else total
    bar = Bar(options.get("title"), counted)
    try:
        with alive_progress.alive_bar(total, **options) as handle:
            yield _Handle(handle, bar, counted)
    except BaseException as error:
        bar.close(error)
        raise
    bar.close()


def alive_it(items: Iterable[_T], total: int | None = None, **options: Any) -> Iterator[_T]:
    """Iterate over items with a reported bar; the arguments are those of alive-progress."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with alive_bar(total, **options) as handle:
        for item in items:
            yield item
            handle()
