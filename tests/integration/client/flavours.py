"""One face for the three flavours of a client, so that one test says what all of them do."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal, cast

import relay_client
import relay_client.aio
import relay_client.trio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from relay_client import Task

Flavour = Literal["threads", "asyncio", "trio"]
FLAVOURS: tuple[Flavour, ...] = ("threads", "asyncio", "trio")


class InPortal:
    """An asynchronous object whose methods block, for threads: they run on the loop of a portal."""

    def __init__(self, portal: BlockingPortal, inner: Any) -> None:
        self._portal = portal
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            async def run() -> Any:
                result = value(*arguments, **options)
                return await result if hasattr(result, "__await__") else result

            return self._portal.call(run)

        return call


@contextmanager
def opened(flavour: Flavour, make: Callable[[Any], Any]) -> Iterator[Any]:
    """What `make` makes of the flavour's package, open for the time of the block."""
    if flavour == "threads":
        with make(relay_client) as client:
            yield client
        return
    package = relay_client.aio if flavour == "asyncio" else relay_client.trio
    with start_blocking_portal(flavour) as portal:
        inner = portal.call(make, package)
        with portal.wrap_async_context_manager(cast(AbstractAsyncContextManager[Any], inner)):
            yield InPortal(portal, inner)


class _Reporter:
    """A reporter whose blocks are plain ones."""

    def __init__(self, inner: Any, wrap: Callable[[Any], AbstractContextManager[Task]]) -> None:
        self._inner = inner
        self._wrap = wrap

    def __call__(self, *arguments: Any, **options: Any) -> AbstractContextManager[Task]:
        return self._wrap(lambda: self._inner(*arguments, **options))


@contextmanager
def reporter(flavour: Flavour, url: str, *, within: float = 15.0, **options: Any) -> Iterator[_Reporter]:
    """A reporter of the flavour, for the time of the block. within: the deadline of its publisher."""
    publishing: dict[str, Any] = {"deadline": within, "timeout": min(2.0, within)}
    if flavour == "threads":
        with (
            relay_client.Publisher(url, **publishing) as client,
            relay_client.TaskReporter(client, **options) as inner,
        ):
            yield _Reporter(inner, lambda make: make())
        return
    package: Any = relay_client.aio if flavour == "asyncio" else relay_client.trio
    with start_blocking_portal(flavour) as portal:

        async def make() -> Any:
            return package.TaskReporter(package.Publisher(url, **publishing), **options)

        async_reporter = portal.call(make)
        with (
            portal.wrap_async_context_manager(async_reporter.publisher),
            portal.wrap_async_context_manager(async_reporter),
        ):
            yield _Reporter(async_reporter, lambda make: portal.wrap_async_context_manager(make()))


def publisher(flavour: Flavour, url: str, **options: Any) -> Any:
    """A publisher of the flavour, as a context manager whose methods block."""
    return opened(flavour, partial(_publisher, url, options))


def _publisher(url: str, options: dict[str, Any], package: Any) -> Any:
    return package.Publisher(url, **options)
