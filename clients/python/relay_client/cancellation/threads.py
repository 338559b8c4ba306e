"""Requests to cancel tasks, for threads.

    listener = CancelListener()
    with listener.watch("task-123") as watch:
        while not watch.cancelled:
            ...

A background thread receives them; it starts with the first watch.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from weakref import WeakSet

from relay_wire.redis_urls import RedisTarget, parse

from relay_client import environment
from relay_client.cancellation.receiver import CancelReceiver
from relay_client.cancellation.watches import Watch
from relay_client.updates import task_channel

_log = logging.getLogger("relay_client")

#: Seconds that the background thread has to end, besides the time-out of its calls.
_JOIN_SECONDS = 1.0


class CancelListener:
    """Receives requests to cancel tasks, for any number of threads. Making one neither connects nor starts a thread.

    It reconnects for as long as it takes, and then reads whether a running task's cancellation was requested meanwhile. A
    forked child may use it for tasks of its own.
    """

    def __init__(self, url: str | RedisTarget | None = None, *, timeout: float = 2.0) -> None:
        """Make a listener.

        Args:
            url: URL of Redis, its Sentinels or its cluster; by default ``REDIS_URL``, or ``REDIS_HOST``, ``REDIS_PORT``, ...
            timeout: Seconds for one try of a call to Redis.

        Raises:
            ValueError: The URL, or the environment, cannot be right.
        """
        self._target = url if isinstance(url, RedisTarget) else parse(url or environment.redis_url())
        self._timeout = timeout
        self._lock = threading.Lock()
        self._threads: list[_Thread] = []
        _listeners.add(self)

    def watch(self, task_id: str | int, on_cancel: Callable[[str], object] | None = None) -> Watch:
        """Watch a task that runs. Does not wait for Redis.

        Args:
            task_id: The task.
            on_cancel: Called once with the reason, in the listener's thread, also if cancellation was requested before. It
                must not block.

        Returns:
            The watch; close it when the task has ended. Its ``cancelled`` is an event.

        Raises:
            ValueError, TypeError: It cannot be a task's id.
        """
        task_channel(task_id)
        thread = self._running_thread()
        watch = Watch(str(task_id), on_cancel, thread.discard)
        thread.add(watch)
        return watch

    def close(self) -> None:
        """End the background thread. Requests that come later are not received."""
        with self._lock:
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.close()

    def _running_thread(self) -> "_Thread":
        with self._lock:
            if not self._threads:
                self._threads.append(_Thread(self._target, self._timeout))
            return self._threads[-1]

    def detach_after_fork(self) -> None:
        """In a forked child: threads are the parent's, and so are the sockets of their event loops."""
        self._lock = threading.Lock()
        _inherited_threads.extend(self._threads)
        self._threads = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Thread:
    """One background thread and its event loop."""

    def __init__(self, target: RedisTarget, timeout: float) -> None:
        # Not `new_event_loop`: where trio-asyncio is loaded that may return one that runs on Trio.
        self._loop = asyncio.SelectorEventLoop()
        self._leave = asyncio.Event()
        self._receiver = CancelReceiver(target, timeout)
        self._timeout = timeout
        self._thread = threading.Thread(target=self._run, name="relay-cancel", daemon=True)
        self._thread.start()

    def add(self, watch: Watch) -> None:
        self._call_soon(lambda: self._receiver.watches.add(watch))

    def discard(self, watch: Watch) -> None:
        self._call_soon(lambda: self._receiver.watches.discard(watch))

    def close(self) -> None:
        self._call_soon(self._leave.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(self._timeout + _JOIN_SECONDS)

    def _call_soon(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: there is nothing left to watch
            self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._receive())
        except Exception:  # noqa: BLE001 - a thread has no caller
            _log.exception("requests to cancel tasks are not received any more")

    async def _receive(self) -> None:
        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(self._receiver.run())
            await self._leave.wait()
            receiving.cancel()


#: Threads of parent processes. Their event loops must not be closed here, for the parents wait on the same file descriptors.
_inherited_threads: list[_Thread] = []

_listeners: "WeakSet[CancelListener]" = WeakSet()


def _detach_all() -> None:
    for listener in tuple(_listeners):
        listener.detach_after_fork()


os.register_at_fork(after_in_child=_detach_all)
