"""The requests that callers hand over to a sender thread, and the inbox that takes them.

No caller ever holds a lock: an exception that a signal handler raises at any instruction leaves nothing locked, and a handler
or a finalizer may hand over while its own thread is doing so. A caller waits on a lock of its own request, which
the sender thread releases.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from relay_client.errors import NotDelivered
from relay_client.publishing.call import Call


class Request:
    """Something for the sender thread to do, and its end.

    Attributes:
        calls: Calls that are to be sent. Their callers wait, unless they are posted.
        make: Makes the calls, in the sender thread, and queues them; instead of `calls`.
        is_accepted: The sender thread has it.
        error: What `make` raised.
        lost: Of a flush: the first posted calls that were lost; and `lost_count` their number.
    """

    def __init__(
        self, calls: Sequence[Call] = (), make: Callable[[], Sequence[Call]] | None = None, *, closes: bool = False
    ) -> None:
        self.calls = calls
        self.make = make
        self.closes = closes
        self.is_accepted = False
        self.is_abandoned = False
        self.error: Exception | None = None
        self.lost: list[NotDelivered] = []
        self.lost_count = 0
        #: Running totals along the inbox, this request included; see `Inbox`.
        self.total_calls = len(calls)
        self.total_bytes = self.size = sum(call.size for call in calls)
        self._open = 0
        self._end = threading.Lock()
        self._end.acquire()

    def follow(self, calls: Sequence[Call]) -> None:
        """In the sender thread: the request ends when these calls are settled."""
        self.calls = calls
        self._open = len(calls) + 1
        for call in calls:
            call.on_settled = self._one_is_settled
            if self.is_abandoned:
                call.is_abandoned = True
        self._one_is_settled()

    def _one_is_settled(self) -> None:
        self._open -= 1
        if not self._open:
            self.end()

    def end(self) -> None:
        """In the sender thread, once: let the caller go on."""
        self._end.release()

    def wait(self, timeout: float) -> bool:
        """Block until it has ended, at most so many seconds; return whether it has."""
        return self._end.acquire(timeout=max(0.0, timeout))

    def abandon(self) -> bool:
        """Wait no longer; return whether some calls may be sent all the same.

        The flag is set before the look at what is being sent; the queue does both in the opposite order. So one of the two sees
        what the other does.
        """
        self.is_abandoned = True
        for call in self.calls:
            call.is_abandoned = True
        is_made = self.make is not None and self.is_accepted
        return is_made or any(call.may_have_arrived or call.is_in_flight for call in self.calls)


class Errand:
    """A function for the sender thread to call: a request without calls, whose end nobody waits for.

    Attributes:
        function: The function.
    """

    # One is made with each of many reports, and a request takes five times as long.
    __slots__ = ("function", "total_bytes", "total_calls")

    calls: Sequence[Call] = ()
    size = 0

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.total_calls = self.total_bytes = 0


class Inbox:
    """Requests in order: any thread puts them in, the sender thread takes them out.

    Their number and bytes are the difference of running totals at both ends. Two threads that put at the same instant may both
    miss the other's request; that mistake leaves the inbox together with the requests.
    """

    def __init__(self) -> None:
        self._requests: deque[Request | Errand] = deque()

    def put(self, request: Request | Errand) -> None:
        """Add a request."""
        try:
            last = self._requests[-1]
        except IndexError:
            pass
        else:
            request.total_calls += last.total_calls
            request.total_bytes += last.total_bytes
        self._requests.append(request)

    def load(self) -> tuple[int, int]:
        """Return the number of calls, and their bytes."""
        try:
            first, last = self._requests[0], self._requests[-1]
        except IndexError:
            return 0, 0
        return (
            max(0, last.total_calls - first.total_calls + len(first.calls)),
            max(0, last.total_bytes - first.total_bytes + first.size),
        )

    def take(self) -> Request | Errand | None:
        """In the sender thread: remove and return the first request, if there is one."""
        return self._requests.popleft() if self._requests else None

    def __bool__(self) -> bool:
        return bool(self._requests)
