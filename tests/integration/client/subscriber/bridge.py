"""One Trio face for the subscribers of all three flavours, so that one test covers all."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import relay_client
import relay_client.aio
import relay_client.trio
import trio
from anyio.from_thread import start_blocking_portal
from relay_client.subscriber import Position, Update

from tests.integration.client.flavours import Flavour, InPortal

T = TypeVar("T")


class Updates(Protocol):
    """What the tests use of a subscription."""

    @property
    def tasks(self) -> list[str]: ...
    @property
    def positions(self) -> dict[str, Position]: ...
    @property
    def states(self) -> dict[str, Mapping[str, Any]]: ...
    @property
    def waiting(self) -> int: ...

    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> Update: ...
    async def subscribe(self, task_id: str) -> None: ...
    async def unsubscribe(self, task_id: str) -> None: ...
    async def established(self) -> None: ...


#: Takes the arguments of `relay_client.trio.subscribe`.
Subscribe = Callable[..., AbstractAsyncContextManager[Updates]]


def subscribe_of(flavour: Flavour) -> Subscribe:
    """Return the flavour's `subscribe`, as if it were Trio's."""
    if flavour == "trio":
        return relay_client.trio.subscribe
    return partial(_bridged, _threads if flavour == "threads" else _asyncio)


def _threads(stack: ExitStack, *arguments: Any, **options: Any) -> tuple[Any, Callable[[], Update]]:
    updates = stack.enter_context(relay_client.subscribe(*arguments, **options))
    return updates, updates.get


def _asyncio(stack: ExitStack, *arguments: Any, **options: Any) -> tuple[Any, Callable[[], Update]]:
    portal = stack.enter_context(start_blocking_portal("asyncio"))
    inner = stack.enter_context(portal.wrap_async_context_manager(relay_client.aio.subscribe(*arguments, **options)))
    updates = InPortal(portal, inner)
    return updates, updates.__getattr__("__anext__")


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)


@asynccontextmanager
async def _bridged(
    opener: Callable[..., tuple[Any, Callable[[], Update]]], *arguments: Any, **options: Any
) -> AsyncIterator[Updates]:
    stack = ExitStack()
    inner, take = await trio.to_thread.run_sync(partial(opener, stack, *arguments, **options))
    raised: Exception | None = None
    try:
        yield _Bridged(inner, take)
    except Exception as error:  # noqa: BLE001 - raised again by the subscription's own block
        raised = error
    finally:
        with trio.CancelScope(shield=True):
            details = (None, None, None) if raised is None else (type(raised), raised, raised.__traceback__)
            await trio.to_thread.run_sync(stack.__exit__, *details)
    if raised is not None:
        raise raised


class _Bridged:
    def __init__(self, inner: Any, take: Callable[[], Update]) -> None:
        self._inner = inner
        self._take = take

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        return await _in_thread(self._take)

    async def subscribe(self, task_id: str) -> None:
        await _in_thread(self._inner.subscribe, task_id)

    async def unsubscribe(self, task_id: str) -> None:
        await _in_thread(self._inner.unsubscribe, task_id)

    async def established(self) -> None:
        await _in_thread(self._inner.established)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
