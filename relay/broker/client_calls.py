"""Calls that clients ask for: on connections of their own, several in one round trip, equal ones only once, and bounded.

However many clients ask, the relay's own calls do not wait for them, and Redis holds the answers of a few round trips only.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import trio
from relay_wire.publications import ScriptCall

from relay.broker.contract import RunCalls
from relay.core.errors import BrokerBusy, BrokerError, BrokerUnavailable

#: Connections for clients' reads; each serves one round trip at a time.
CONNECTIONS = 4

#: Calls in one round trip at most, unless one request has more: an answer may be as large as a state and a history.
_CALLS_AT_ONCE = 32

#: Requests that may wait. With more, the last would be answered after their deadline.
MAX_WAITING = 1024

#: Seconds after which a client that was turned away should try again.
_RETRY_AFTER = 1.0

_Identity = tuple[str, tuple[Any, ...], tuple[Any, ...]]


class _Request:
    """Some calls, and all who wait for their answers."""

    __slots__ = ("answers", "calls", "done", "identity", "waiters")

    def __init__(self, calls: Sequence[ScriptCall], identity: _Identity | None) -> None:
        self.calls = calls
        self.identity = identity
        self.waiters = 0
        self.done = trio.Event()
        self.answers: list[Any] | BrokerError = []


class ClientCalls:
    """Runs scripts for clients, or those that are periodic. `run` must be running."""

    def __init__(self, run_calls: RunCalls, connections: int, deadline: float) -> None:
        """Make it.

        Args:
            run_calls: Runs scripts, on connections that nobody else uses.
            connections: How many there are.
            deadline: Seconds within which a request ends.
        """
        self._run_calls = run_calls
        self._connections = connections
        self._deadline = deadline
        self._queue: deque[_Request] = deque()
        self._shared: dict[_Identity, _Request] = {}
        self._waiting = 0
        self._has_work = trio.Event()

    async def run_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts that read, or whose writes come to the same if several clients ask for them at once.

        Returns:
            The answers, with a BrokerError in place of a failed call's.

        Raises:
            BrokerBusy: Too many requests wait already. Nothing was sent.
            BrokerUnavailable: No answer within the deadline.
        """
        request = self._enqueue(calls)
        request.waiters += 1
        self._waiting += 1
        try:
            with trio.fail_after(self._deadline):
                await request.done.wait()
        except trio.TooSlowError:
            if not request.done.is_set():  # else it was this process that was late
                raise BrokerUnavailable(f"Redis did not answer within {self._deadline:g} s") from None
        finally:
            request.waiters -= 1
            self._waiting -= 1
        if isinstance(request.answers, BrokerError):
            raise request.answers
        return list(request.answers)

    def _enqueue(self, calls: Sequence[ScriptCall]) -> _Request:
        identity: _Identity | None = None
        if len(calls) == 1:
            script, names, values = calls[0]
            identity = script.sha, tuple(names), tuple(values)
            request = self._shared.get(identity)
            if request is not None:
                return request
        if self._waiting >= MAX_WAITING:
            raise BrokerBusy("too many requests wait for Redis now", retry_after=_RETRY_AFTER)
        request = _Request(calls, identity)
        if identity is not None:
            self._shared[identity] = request
        self._queue.append(request)
        self._has_work.set()
        return request

    async def run(self) -> None:
        """Serve requests until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._connections):
                nursery.start_soon(self._serve)

    async def _serve(self) -> None:
        while True:
            await self._has_work.wait()
            await trio.lowlevel.checkpoint()  # what others ask for in this turn goes along
            batch = self._take()
            if not batch:
                continue
            try:
                answers = await self._run_calls([call for request in batch for call in request.calls])
            except BrokerError as error:
                for request in batch:
                    request.answers = error
            else:
                left = iter(answers)
                for request in batch:
                    request.answers = [next(left) for _ in request.calls]
            for request in batch:
                request.done.set()

    def _take(self) -> list[_Request]:
        """Take the next requests, without those that nobody waits for any more.

        Nobody joins them from now on: an answer must not be older than the question.
        """
        batch: list[_Request] = []
        count = 0
        while self._queue and (not batch or count + len(self._queue[0].calls) <= _CALLS_AT_ONCE):
            request = self._queue.popleft()
            if request.identity is not None:
                del self._shared[request.identity]
            if request.waiters:
                batch.append(request)
                count += len(request.calls)
        if not self._queue:
            self._has_work = trio.Event()
        return batch
