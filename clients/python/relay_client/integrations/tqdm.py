"""tqdm: a bar as the progress of a task.

from relay_client.integrations.tqdm import tqdm, trange

For loops that import ``tqdm`` from its own package: ``relay_client.integrations.tqdm.install()``, before or after they do.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from relay_client.integrations.bars import Bar
from relay_client.integrations.missing import missing
from relay_client.integrations.patching import wrap_method

try:
    from tqdm import std
except ModuleNotFoundError as error:
    raise missing("tqdm 4.66 or newer", "tqdm") from error

_Method = Callable[..., Any]


def _opening(init: _Method) -> _Method:
    def reporting(self: Any, iterable: Any = None, desc: str | None = None, *args: Any, **kwargs: Any) -> None:
        init(self, iterable, desc, *args, **kwargs)
        if "_relay_bar" not in vars(self):
            self._relay_bar = Bar(desc, self.total)

    return reporting


def _updating(update: _Method) -> _Method:
    def reporting(self: Any, n: float | None = 1) -> Any:
        result = update(self, n)
        if self.disable and n:
            self.n += n  # for tqdm itself a disabled bar counts nothing
        self._relay_bar.set(self.n, self.total)
        return result

    return reporting


def _iterating(iterate: _Method) -> _Method:
    def reporting(self: Any) -> Iterator[Any]:
        bar: Bar = self._relay_bar
        try:
            for count, item in enumerate(iterate(self), 1):
                yield item
                bar.set(count)
        except BaseException as error:
            bar.close(error)
            raise
        bar.close()

    return reporting


def _describing(describe: _Method) -> _Method:
    def reporting(self: Any, desc: str | None = None, refresh: bool = True) -> Any:
        self._relay_bar.set(self.n, self.total, desc)
        return describe(self, desc, refresh)

    return reporting


def _closing(close: _Method) -> _Method:
    def reporting(self: Any) -> Any:
        bar = vars(self).get("_relay_bar")  # tqdm closes bars that could not be made, too
        if bar is not None and not getattr(self, "disable", True):
            bar.close(sys.exc_info()[1])
        return close(self)

    return reporting


def _exiting(leave: _Method) -> _Method:
    def reporting(self: Any, kind: Any, error: BaseException | None, trace: Any) -> Any:
        self._relay_bar.close(error)
        return leave(self, kind, error, trace)

    return reporting


_WRAPPERS = {
    "__init__": _opening,
    "__iter__": _iterating,
    "__exit__": _exiting,
    "update": _updating,
    "set_description": _describing,
    "close": _closing,
}


def install() -> None:
    """Have every bar of tqdm reported, wherever it is made in this process."""
    for name, make in _WRAPPERS.items():
        wrap_method(std.tqdm, name, make)


class tqdm(std.tqdm):  # noqa: N801 - its users know it by this name
    """tqdm's bar, reported."""


for _name, _make in _WRAPPERS.items():
    setattr(tqdm, _name, _make(getattr(std.tqdm, _name)))


def trange(*args: Any, **kwargs: Any) -> tqdm:
    """Return a reported bar over a range, as tqdm's ``trange`` does."""
    return tqdm(range(*args), **kwargs)
