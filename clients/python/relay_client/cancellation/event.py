"""Whether a task's cancellation was requested: a flag that threads can also wait for."""

from queue import Empty, SimpleQueue


class CancelEvent:
    """True once cancellation was requested. From any thread; a signal handler may set it, too.

    Attributes:
        reason: Why; empty before, and where no reason was given.
    """

    __slots__ = ("_is_set", "_wake", "reason")

    def __init__(self) -> None:
        self.reason = ""
        self._is_set = False
        # Not threading.Event: a signal handler that sets one while its own thread waits for it can block forever.
        self._wake: SimpleQueue[None] = SimpleQueue()

    def __bool__(self) -> bool:
        return self._is_set

    def is_set(self) -> bool:
        """Return whether cancellation was requested."""
        return self._is_set

    def set(self, reason: str = "") -> None:
        """Note that cancellation was requested. The first reason counts."""
        if not self._is_set:
            self.reason = reason
            self._is_set = True
            self._wake.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Block the thread until cancellation is requested.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it was requested.
        """
        if not self._is_set:
            try:
                self._wake.get(timeout=timeout)
            except Empty:
                return self._is_set
            self._wake.put(None)  # for other threads that wait
        return True
