"""Signals that end a process: the first lets it drain, the second ends it at once."""

import math
import signal

import structlog
import trio

_log = structlog.get_logger("relay.shutdown")


def _ending_signals() -> list[signal.Signals]:
    """Return the signals that end the process; SIGHUP is none where it is ignored, as under nohup."""
    ending = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    return ending


class Shutdown:
    """The shutdown of one process.

    Args:
        grace: Seconds from the first signal until what is left is cancelled.

    Attributes:
        requested: Set by the first signal.
        forced: Set by the second signal.
        limit: Run all that must end with the shutdown in this scope.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self.requested = trio.Event()
        self.forced = trio.Event()
        self.limit = trio.CancelScope()

    async def watch(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch for signals until cancelled. From `started` on, none of them ends the process by itself."""
        with trio.open_signal_receiver(*_ending_signals()) as signals:
            task_status.started()
            try:
                async for number in signals:
                    self._on_signal(signal.Signals(number))
            finally:
                if self.requested.is_set() and not self.forced.is_set() and trio.current_time() >= self.limit.deadline:
                    _log.error("shutdown took longer than RELAY_GRACEFUL_TIMEOUT", seconds=self._grace)

    def _on_signal(self, number: signal.Signals) -> None:
        if not self.requested.is_set():
            _log.info("shutting down", signal=number.name, seconds=self._grace)
            self.limit.deadline = min(self.limit.deadline, trio.current_time() + self._grace)
            self.requested.set()
        elif not self.forced.is_set():
            _log.warning("shutting down at once", signal=number.name)
            self.forced.set()
            self.limit.cancel()

    @property
    def seconds_left(self) -> float:
        """Seconds until what is left is cancelled; infinite before the first signal, 0 after the second."""
        if self.forced.is_set():
            return 0.0
        return math.inf if self.limit.deadline == math.inf else max(0.0, self.limit.deadline - trio.current_time())
