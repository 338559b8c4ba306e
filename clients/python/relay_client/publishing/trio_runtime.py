"""The primitives of Trio, for the sender and the reporter; redis-py's asyncio client runs behind the trio-asyncio bridge."""

import math
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any, Self

import trio
from relay_wire.trio_bridge import trio_asyncio


class _Signal:
    """See `relay_client.publishing.runtime.Signal`."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._event = trio.Event()

    def set(self) -> None:
        if trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self._token:
            self._event.set()
        else:
            with suppress(trio.RunFinishedError):  # nobody waits any more
                self._token.run_sync_soon(self._set, idempotent=True)

    def _set(self) -> None:
        self._event.set()

    async def wait(self, timeout: float | None) -> bool:
        with trio.move_on_after(math.inf if timeout is None else timeout):
            await self._event.wait()
        was_set = self._event.is_set()
        self._event = trio.Event()
        return was_set


class _Scope:
    """See `relay_client.publishing.runtime.Scope`."""

    def __init__(self, seconds: float) -> None:
        self._scope = trio.move_on_after(max(0.0, seconds))

    @property
    def has_expired(self) -> bool:
        return self._scope.cancelled_caught

    async def __aenter__(self) -> Self:
        self._scope.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._scope.__exit__(kind, error, trace)


class TrioRuntime:
    """See `relay_client.publishing.runtime.Runtime`. Belongs to the Trio run that it is made in."""

    def __init__(self, loop: trio_asyncio.TrioEventLoop) -> None:
        self._loop = loop
        self._token = trio.lowlevel.current_trio_token()

    def check_owner(self) -> None:
        """See `Runtime.check_owner`."""
        if trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError("this publisher belongs to another Trio run: make one for each run")

    def lock(self) -> AbstractAsyncContextManager[Any]:
        """See `Runtime.lock`."""
        return trio.Lock()

    def signal(self) -> _Signal:
        """See `Runtime.signal`."""
        return _Signal(self._token)

    def move_on_after(self, seconds: float) -> _Scope:
        """See `Runtime.move_on_after`."""
        return _Scope(seconds)

    async def sleep(self, seconds: float) -> None:
        """See `Runtime.sleep`."""
        await trio.sleep(seconds)

    async def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """See `Runtime.call`."""
        return await self._loop.run_aio_coroutine(coroutine)

    def cancellation_count(self) -> int:
        """See `Runtime.cancellation_count`. Trio cancels until the task ends: no cancellation is lost."""
        return 0

    def raise_swallowed(self, count: int) -> None:
        """See `Runtime.raise_swallowed`."""

    async def finish(self, function: Callable[[], Awaitable[None]], *, grace: float, limit: float) -> None:
        """See `Runtime.finish`."""
        scope = trio.CancelScope(shield=True, deadline=trio.current_time() + limit)

        async def shorten_deadline_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                # Not raised: this task is only here to notice. The caller is cancelled at its next checkpoint.
                scope.deadline = min(scope.deadline, trio.current_time() + grace)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shorten_deadline_when_cancelled)
            with scope:
                await function()
            nursery.cancel_scope.cancel()
