"""trio-asyncio, also on Python 3.14 and 3.15, where its releases up to 0.16 cannot be imported.

Import it from here: ``from relay_wire.trio_bridge import trio_asyncio``. Relay's server and its clients for Trio need it; the
package is theirs to require.

Python 3.14 has dropped two classes from which trio-asyncio derives its own. And it lets a task take a step only while the
task's loop is noted as the running one, which trio-asyncio does not do. Python 3.15 names a context where it watches a socket.
All three are made up for here. Where trio-asyncio can be imported as it is, nothing is changed.
"""

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["trio_asyncio"]

_asyncio_package: Any = asyncio
_handle_class: Any = asyncio.Handle


@contextmanager
def _dropped_classes() -> Iterator[None]:
    """Let trio-asyncio find the classes: the policy has another name now, and the watcher had no code."""
    events = _asyncio_package.events
    events.BaseDefaultEventLoopPolicy = events._BaseDefaultEventLoopPolicy
    _asyncio_package.AbstractChildWatcher = type("AbstractChildWatcher", (), {})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.16 will drop policies
            yield
    finally:
        del events.BaseDefaultEventLoopPolicy
        del _asyncio_package.AbstractChildWatcher


def _note_running_loops(loops: type) -> None:
    """Have loops of this class noted as running while they run a callback, as asyncio's own loops are."""
    import _asyncio  # trio-asyncio has replaced the functions of the package

    get_running_loop: Any = _asyncio._get_running_loop
    set_running_loop: Any = _asyncio._set_running_loop
    run = _handle_class._run

    def run_noted(handle: Any) -> None:
        if not isinstance(handle._loop, loops):
            run(handle)
            return
        before = get_running_loop()
        set_running_loop(handle._loop)
        try:
            run(handle)
        finally:
            set_running_loop(before)

    _handle_class._run = run_noted


def _take_contexts(loops: Any) -> None:
    """Have loops of this class run what watches a socket in the context that is named for it."""

    def taking(add: Any) -> Any:
        def add_in_context(loop: Any, fd: Any, callback: Any, *args: Any, context: Any = None, **options: Any) -> Any:
            if context is not None:
                args, callback = (callback, *args), context.run
            return add(loop, fd, callback, *args, **options)

        return add_in_context

    loops._add_reader = taking(loops._add_reader)
    loops._add_writer = taking(loops._add_writer)


try:
    import trio_asyncio
except AttributeError:
    with _dropped_classes():
        import trio_asyncio
    from trio_asyncio._base import BaseTrioEventLoop

    _note_running_loops(BaseTrioEventLoop)
    _take_contexts(BaseTrioEventLoop)
