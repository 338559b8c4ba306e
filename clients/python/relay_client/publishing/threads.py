"""The sender of threads: one thread owns the connection, and callers only hand over and wait.

    caller:  inbox.put(request) -> wake -> request.wait(deadline)          (post: without waiting)
    caller:  run_soon(function)                                            (the thread calls it)
    thread:  inbox -> queue -> exchange with Redis -> request.end()

The thread is started when there is something to send, and ends when it was idle for a while. A caller that finds none running
starts one. If several are started at the same time, a lock that only they take lets one of them send, and the others end.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from weakref import WeakSet

from relay_wire.redis_urls import RedisTarget

from relay_client.errors import BackgroundDeliveryError, DeliveryTimedOut, NotDelivered
from relay_client.publishing.call import Call
from relay_client.publishing.connection import BlockingConnection, Connection
from relay_client.publishing.exit_hook import ExitHook
from relay_client.publishing.inbox import Errand, Inbox, Request
from relay_client.publishing.queue import DeliveryLimits, DeliveryQueue
from relay_client.publishing.sender import Put, Sender, Source
from relay_client.publishing.thread_runtime import ThreadRuntime, run_blocking

_log = logging.getLogger("relay_client")

#: The thread ends when it was idle for so many seconds.
_IDLE_SECONDS = 5.0

#: A thread that is started beside a running one waits so many seconds for that one to end.
_HANDOFF_SECONDS = 1.0


class ThreadSender:
    """Sends calls to Redis, in order, for any number of threads, signal handlers and finalizers among them.

    A forked child starts with an empty queue and a connection of its own; what its parent had queued stays the parent's.
    """

    def __init__(
        self,
        target: RedisTarget,
        limits: DeliveryLimits,
        meta_ms: int,
        connect: Callable[[RedisTarget, float, str], Connection] = BlockingConnection,
    ) -> None:
        """Make a sender that is not connected, and has no thread yet.

        Args:
            target: The Redis.
            limits: Limits of the queue.
            meta_ms: How long Redis keeps the numbers of a channel, in milliseconds.
            connect: Makes the connection, whose coroutines block; of the target, a timeout in seconds, and a client name.
        """
        self._connect = connect
        self._target = target
        self.limits = limits
        self._meta_ms = meta_ms
        self._is_closed = False
        self.reset()
        _senders.add(self)

    def reset(self) -> None:
        """Begin empty: at first, and in a forked child, where locks may be held by threads of the parent."""
        self._queue = DeliveryQueue(self.limits, *((1,) if self._target.is_sharded else ()))
        connection = self._connect(self._target, self.limits.timeout, "relay-client")
        runtime = ThreadRuntime()
        self._work = runtime.work
        self._core = Sender(runtime, connection, self._queue, self._meta_ms)
        self._inbox = Inbox()
        self._flushes: list[tuple[Request, list[Call]]] = []
        self._is_used = False
        #: Taken by sender threads only, for the time that they send.
        self._election = threading.Lock()
        #: The thread that sends; 0: there is none.
        self._thread = 0
        if self._is_closed:
            self._queue.close()

    @property
    def waiting(self) -> int:
        """Number of calls that wait."""
        return self._queue.waiting + self._inbox.load()[0]

    @property
    def is_failing(self) -> bool:
        """The last try has failed. While the first one goes on, none has."""
        return self._queue.is_failing

    def deliver(self, calls: Sequence[Call], timeout: float | None = None) -> None:
        """Have calls sent, and wait until they are settled: at the latest at their deadline, plus what is left of one try.

        What interrupts the wait (KeyboardInterrupt, a time limit) takes back what is not being sent just then. In the sender
        thread itself, where a finalizer may run, nothing can be waited for: there the calls are posted.

        Args:
            calls: The calls, in order.
            timeout: Seconds until their deadline, where it is not the queue's.

        Raises:
            BufferFull: Too much waits.
            PublisherClosed: The sender was closed.
            DeliveryTimedOut: The sender thread did not come to it. Otherwise the calls have the outcome.
        """
        if self.is_sender_thread():
            self.post(calls)
            return
        self._check(calls)
        self._queue.stamp(calls, monotonic(), timeout, posted=False)
        self._hand_over_and_wait(Request(calls), timeout)

    def build_and_deliver(self, make: Callable[[Put], Sequence[Call]], timeout: float | None = None) -> Sequence[Call]:
        """Have calls made in the sender thread, where nothing is sent meanwhile, and wait until they are settled.

        Args:
            make: Takes a function that queues calls; returns the calls. It is called in any case.
            timeout: Seconds until their deadline, where it is not the queue's.

        Returns:
            The calls, which have the outcome; none in the sender thread itself, where nothing can be waited for.

        Raises:
            DeliveryTimedOut: The sender thread did not come to it.
            Exception: What `make` raised.
        """
        is_posted = self.is_sender_thread()

        def put(calls: list[Call]) -> None:
            self._queue.put(calls, monotonic(), timeout, posted=is_posted)

        request = Request(make=lambda: make(put))
        if is_posted:
            self._inbox.put(request)
            return ()
        self._hand_over_and_wait(request, timeout)
        if request.error is not None:
            raise request.error
        return request.calls

    def post(self, calls: Sequence[Call]) -> None:
        """Have calls sent; nobody waits. A loss is logged, and raised by the next `flush`.

        Raises:
            BufferFull: Too much waits.
            PublisherClosed: The sender was closed.
        """
        self._check(calls)
        self._queue.stamp(calls, monotonic(), None, posted=True)
        _exit_flush.arm()
        self._hand_over(Request(calls))

    def run_soon(self, function: Callable[[], None]) -> None:
        """Have a function called in the sender thread, where nothing is sent meanwhile. Nobody waits for it.

        It takes a hundredth of a second longer than what somebody waits for, and costs the caller less.
        """

        self._is_used = True
        self._inbox.put(Errand(function))
        self.wake_soon()

    def add_source(self, source: Source) -> None:
        """Send what a source has. In the sender thread only."""
        self._core.add_source(source)

    def remove_source(self, source: Source) -> None:
        """Ask a source no more. In the sender thread only."""
        self._core.remove_source(source)

    def wake(self) -> None:
        """Have the sender thread look what is due."""
        self._core.wake()
        if not self._thread:
            self._start()

    def wake_soon(self) -> None:
        """Have the sender thread look what is due, within a hundredth of a second."""
        self._work.set_soon()
        if not self._thread:
            self._start()

    def flush(self) -> None:
        """Wait until all that was handed over is settled, at the latest at its deadline.

        In the sender thread itself, where a finalizer may run, it does nothing.

        Raises:
            BackgroundDeliveryError: Posted calls were lost since the last flush.
            DeliveryTimedOut: The sender thread does not come to its end.
        """
        self._flush(Request())

    def close(self) -> None:
        """Take no more calls, flush, and close the connection. Closing twice is no error. Raises what `flush` does."""
        self._is_closed = True
        self._queue.close()
        if self._is_used:
            self._flush(Request(closes=True))

    def flush_at_exit(self) -> None:
        """Flush, if there is something to flush. Raises what `flush` does."""
        if self._thread or self._has_work() or self._queue.has_lost:
            self.flush()

    def _flush(self, request: Request) -> None:
        if self.is_sender_thread():
            self._inbox.put(request)
            return
        self._hand_over(request)
        # Everything has its deadline, and is given up at the first try after it; a try asks each node of a cluster.
        limits = self.limits
        if not request.wait(limits.deadline + limits.timeout * (4 + len(self._target.nodes))):
            raise DeliveryTimedOut("the sender thread does not come to its end", may_have_arrived=True)
        if request.lost_count:
            raise BackgroundDeliveryError(request.lost, request.lost_count)

    # In the callers' threads

    @property
    def is_running(self) -> bool:
        """There is a sender thread."""
        return bool(self._thread)

    def is_sender_thread(self) -> bool:
        """Return whether the caller is the sender thread, which must not wait for itself."""
        return self._thread == threading.get_ident()

    def _check(self, calls: Sequence[Call]) -> None:
        waiting, size = self._inbox.load()
        self._queue.check(calls, self._queue.waiting + waiting, self._queue.waiting_bytes + size)

    def _hand_over(self, request: Request) -> None:
        self._is_used = True
        self._inbox.put(request)
        self.wake()

    def _hand_over_and_wait(self, request: Request, timeout: float | None) -> None:
        seconds = self._queue.deadline_of(timeout)
        deadline = monotonic() + seconds
        try:
            self._hand_over(request)
            if request.wait(deadline - monotonic()):
                return
            may_have_arrived = request.abandon()
            if may_have_arrived and request.wait(self.limits.timeout):  # the answer may be on its way
                return
        except BaseException:
            request.abandon()
            raise
        channel = request.calls[0].channel if request.calls else ""
        raise self._queue.timed_out(seconds, channel, may_have_arrived=may_have_arrived)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, args=(_IDLE_SECONDS,), name="relay-publisher", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, or has too many threads: this thread sends what waits
            self._run(0.0)

    # In the sender thread

    def _run(self, idle: float) -> None:
        if not self._election.acquire(timeout=_HANDOFF_SECONDS):
            return  # another one is running
        try:
            has_work = True
            while has_work:
                self._thread = threading.get_ident()
                while self._serve(idle):
                    pass
                # From now on callers start another thread; what came before is in the inbox.
                self._thread = 0
                has_work = self._has_work()
        except Exception as error:  # noqa: BLE001 - the callers get it
            _log.exception("the sender thread has failed; what it had queued is lost")
            self._fail(error)
        finally:
            self._thread = 0
            self._election.release()

    def _has_work(self) -> bool:
        return bool(self._inbox or self._queue.waiting or self._flushes)

    def _serve(self, idle: float) -> bool:
        """Do one step; False when there was nothing to do for `idle` seconds, or nothing more is to come."""
        self._accept()
        if not idle:
            self._core.collect()
        if (self._is_closed or not idle) and not self._queue.waiting:
            return bool(self._inbox)
        has_more = run_blocking(self._core.step(0.0 if self._inbox else idle))
        self._end_flushes()
        return bool(has_more or self._inbox)

    def _accept(self) -> None:
        """Move what was handed over into the queue."""
        while (request := self._inbox.take()) is not None:
            if isinstance(request, Errand):
                self._run_errand(request)
                continue
            # A caller that looks just now counts it neither here nor there: that is better than twice, which would refuse.
            request.is_accepted = True
            if request.calls:
                self._queue.add(request.calls, monotonic())
                if not request.calls[0].is_posted:
                    request.follow(request.calls)
            elif request.make is None:
                self._flushes.append((request, self._queue.unsettled()))
            else:
                self._make(request, request.make)
        self._end_flushes()

    def _make(self, request: Request, make: Callable[[], Sequence[Call]]) -> None:
        try:
            request.follow(make())
        except Exception as error:  # noqa: BLE001 - it is raised where it was handed over
            request.error = error
            request.end()

    @staticmethod
    def _run_errand(errand: Errand) -> None:
        try:
            errand.function()
        except Exception:  # noqa: BLE001 - nobody waits for it, and what else is handed over must not suffer
            _log.exception("a function for the sender thread has failed")

    def _end_flushes(self) -> None:
        for pending in tuple(self._flushes):
            request, calls = pending
            if all(call.is_settled for call in calls):
                self._flushes.remove(pending)
                request.lost, request.lost_count = self._queue.take_lost()
                if request.closes:
                    run_blocking(self._core.disconnect())
                request.end()

    def _fail(self, error: Exception) -> None:
        self._queue.fail_all(error)
        self._end_flushes()


#: Of this process; those that are forgotten drop out.
_senders: "WeakSet[ThreadSender]" = WeakSet()


def _flush_all() -> None:
    """Flush posted updates of publishers that were never closed."""
    for sender in tuple(_senders):
        try:
            sender.flush_at_exit()
        except NotDelivered as error:
            _log.error("at exit: %s", error)


_exit_flush = ExitHook(_flush_all, priority=0)


def _reset_in_child() -> None:
    for sender in tuple(_senders):
        sender.reset()


os.register_at_fork(after_in_child=_reset_in_child)
