"""Follow a relay from plain threads.

    with subscribe("ws://127.0.0.1:8000/ws/tasks", tasks=["demo"]) as updates:
        for update in updates:
            print(update.task_id, update.state)

A background thread runs the asyncio flavour. It only receives: updates are taken by the threads that iterate, from a queue that
both share, so that an exception out of a signal handler loses none and leaves no lock held.
"""

import asyncio
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar, Unpack

from relay_wire.position import Position

from relay_client.subscriber.aio import AsyncioRuntime, AsyncioSignal
from relay_client.subscriber.connection import CLOSE_TIMEOUT
from relay_client.subscriber.errors import SubscriptionClosed
from relay_client.subscriber.subscription import SubscribeOptions, new_subscription, running
from relay_client.subscriber.subscription import Updates as AsyncUpdates
from relay_client.subscriber.subscriptions import Subscriptions
from relay_client.subscriber.supervisor import ConnectionSupervisor
from relay_client.subscriber.text_stream import TextChunk, TextStream, channel_of_stream
from relay_client.subscriber.update import Update

__all__ = ["SubscribeOptions", "Updates", "subscribe"]

#: Seconds that the background thread gets to end, the closing handshake included. A resolver that hangs takes longer; the
#: thread is left behind then, and ends with the resolver.
_JOIN_TIMEOUT = CLOSE_TIMEOUT + 1.0

#: Seconds between two looks at whether the background thread still lives, while it is asked for something.
_LIVENESS_INTERVAL = 1.0

_log = logging.getLogger("relay_client")

T = TypeVar("T")


@contextmanager
def subscribe(
    url: str | None = None, tasks: Iterable[str] = (), **options: Unpack[SubscribeOptions]
) -> Iterator["Updates"]:
    """Follow a relay for the time of the block.

    Enters at once: the connection is made in a background thread, and made again whenever it is lost. Leaving the block closes
    it and joins the thread, within two seconds.

    Args:
        url: Of the relay, ``https://host``, or of its WebSocket, ``wss://host/ws/tasks``. By default that in ``RELAY_URL``,
            or a relay on this machine.
        tasks: Ids of the tasks to follow. `Updates.subscribe` and `Updates.unsubscribe` change them later.
        options: See `SubscribeOptions`. ``on_connection`` is called in the background thread.

    Raises:
        ValueError: An argument can never work.
    """
    runtime = _ThreadsRuntime()
    subscriptions, supervisor = new_subscription(runtime, url, tasks, **options)
    updates = Updates(runtime, subscriptions, supervisor)
    try:
        yield updates
    finally:
        updates.close()


class _ThreadsSignal(AsyncioSignal):
    """A signal that also wakes threads. `notify` belongs to the background thread."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters: deque[threading.Lock] = deque()

    def notify(self) -> None:
        super().notify()
        with suppress(IndexError):
            while True:
                self._waiters.popleft().release()

    def new_waiter(self) -> threading.Lock:
        """Return a lock that the next `notify` releases: check the condition, then acquire it."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        return waiter

    def discard(self, waiter: threading.Lock) -> None:
        with suppress(ValueError):
            self._waiters.remove(waiter)


class _ThreadsRuntime(AsyncioRuntime):
    """asyncio, with signals that reach threads."""

    def new_signal(self) -> _ThreadsSignal:
        return _ThreadsSignal()


class Updates:
    """An open subscription: an iterator of updates. `subscribe` makes it. Its methods may be called from any thread.

    It does not survive a fork: a child process has to subscribe itself.
    """

    def __init__(
        self,
        runtime: _ThreadsRuntime,
        subscriptions: Subscriptions,
        supervisor: ConnectionSupervisor,
    ) -> None:
        update_available = supervisor.signals.update_available
        assert isinstance(update_available, _ThreadsSignal)
        self._runtime = runtime
        self._update_available = update_available
        self._subscriptions = subscriptions
        self._supervisor = supervisor
        self._async_updates = AsyncUpdates(runtime, subscriptions, supervisor)
        self._pid = os.getpid()
        self._leave = asyncio.Event()
        # Not `new_event_loop`: where trio-asyncio is loaded that may return one that runs on Trio.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name="relay-subscriber", daemon=True)
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Update:
        """Wait for the next update and return it. Of several consumers each gets a part.

        Raises:
            SubscriptionError: There will be no more updates; the subclass says why.
        """
        return self.get()

    def stream(self, field: str, task_id: str | None = None) -> Iterator[TextChunk]:
        """Iterate over the pieces of a text that grows; arguments and rules as for the event loops' `Updates.stream`."""
        channel = channel_of_stream(self.tasks, task_id)
        known = self.states.get(channel, {}).get(field)
        text_stream = TextStream(channel, field, known if isinstance(known, str) else "")
        while not text_stream.has_ended:
            chunk = text_stream.feed(self.get())
            if chunk is not None:
                yield chunk

    def get(self, timeout: float | None = None) -> Update:
        """Wait for the next update, for some seconds at most, and return it.

        Raises:
            SubscriptionError: There will be no more updates; the subclass says why.
            TimeoutError: There was none in time.
        """
        self._check_process()
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            waiter = self._update_available.new_waiter()
            try:
                ended = self._supervisor.ended  # before the queue is looked at: what came before the end is returned
                update = self._subscriptions.pop()
                if update is not None:
                    self._post(self._supervisor.signals.room_available.notify)
                    return update
                if ended is not None:
                    raise ended
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"no update within {timeout:g} s")
                waiter.acquire(timeout=min(left, threading.TIMEOUT_MAX))
            finally:
                self._update_available.discard(waiter)

    def subscribe(self, task_id: str) -> None:
        """Follow one more task, beginning with its state. No effect if it is followed already.

        Does not wait for the relay's answer: a refusal ends the iteration. Raises ValueError if it cannot be a task id.
        """
        self._call(lambda: self._async_updates.subscribe(task_id))

    def unsubscribe(self, task_id: str) -> None:
        """Stop following a task: no further update of it is returned, not even one that waits already."""
        self._call(lambda: self._async_updates.unsubscribe(task_id))

    def established(self, timeout: float | None = None) -> None:
        """Wait until the relay follows everything that was requested: whatever is published afterwards arrives.

        Raises:
            SubscriptionError: There will be no more updates.
            TimeoutError: It did not within so many seconds.
        """
        self._call(self._async_updates.established, timeout)

    @property
    def tasks(self) -> list[str]:
        """The ids of the tasks that are followed."""
        return self._read(lambda: self._subscriptions.tasks)

    @property
    def positions(self) -> dict[str, Position]:
        """By channel, the position of the last update that was taken. Give it to `subscribe` to resume from here."""
        return self._read(lambda: self._subscriptions.positions)

    @property
    def states(self) -> dict[str, Mapping[str, Any]]:
        """By channel, the states of the tasks at these positions."""
        return self._read(lambda: self._subscriptions.states)

    @property
    def waiting(self) -> int:
        """Updates that have arrived and were not yet taken."""
        return self._subscriptions.waiting

    def close(self) -> None:
        """Close the connection and join the background thread. The end of the block does this."""
        if os.getpid() != self._pid:
            return
        self._post(self._leave.set)
        self._thread.join(_JOIN_TIMEOUT)
        if self._thread.is_alive():
            _log.warning("a subscriber's thread still waits for the resolver; it ends with it")

    # The background thread.

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._keep_connected())
        except Exception:  # noqa: BLE001 - a thread has no caller; consumers get the error from the supervisor
            _log.exception("the subscriber's background thread has failed")

    async def _keep_connected(self) -> None:
        async with running(self._runtime, self._subscriptions, self._supervisor):
            await self._leave.wait()

    # From other threads to the background thread.

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("this subscription belongs to the parent process; subscribe again after a fork")

    def _post(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: there is nothing left to notify
            self._loop.call_soon_threadsafe(function)

    def _call(self, function: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Run a function of the asyncio flavour and return its result. Raises SubscriptionClosed after the end of the block."""
        self._check_process()
        coroutine = function()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise SubscriptionClosed("this subscription is closed") from None
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        try:
            while True:
                left = deadline - time.monotonic()
                with suppress(TimeoutError):
                    return future.result(max(0.0, min(left, _LIVENESS_INTERVAL)))
                if left <= 0:
                    raise TimeoutError(f"not within {timeout:g} s")
                if not self._thread.is_alive() and not future.done():
                    raise SubscriptionClosed("this subscription is closed")
        except CancelledError:
            raise SubscriptionClosed("this subscription is closed") from None
        finally:
            future.cancel()

    def _read(self, function: Callable[[], T]) -> T:
        """Read what the background thread may be changing."""

        async def run() -> T:
            return function()

        if self._thread.is_alive():
            with suppress(SubscriptionClosed):
                return self._call(run)
        return function()
