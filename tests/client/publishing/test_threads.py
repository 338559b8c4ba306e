"""The sender of threads, without Redis: no exception, handler or finalizer makes it hang, and nothing is sent twice."""

import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

import pytest
from relay_client import BackgroundDeliveryError, BufferFull, DeliveryRefused, DeliveryTimedOut, PublisherClosed
from relay_client.publishing import threads
from relay_client.publishing.call import Call
from relay_client.publishing.connection import Connection
from relay_client.publishing.exchange import Exchange
from relay_client.publishing.inbox import Request
from relay_client.publishing.queue import DeliveryLimits
from relay_client.publishing.thread_runtime import ThreadSignal, run_blocking
from relay_client.publishing.threads import ThreadSender
from relay_wire.redis_urls import RedisTarget, parse
from relay_wire.scripts import Script

SCRIPT = Script("return 1", "digest")
PATIENCE = 20.0


class Redis(Connection):
    """Executes calls, each once; may be held up, or fail."""

    def __init__(self, target: RedisTarget, timeout: float, client_name: str) -> None:
        super().__init__(target, timeout)
        self.executed: list[str] = []
        self.error: Exception | None = None
        self.is_up = threading.Event()
        self.is_up.set()
        self.is_busy = threading.Event()

    async def exchange(self, exchange: Exchange) -> list[Any]:
        self.was_sent = True
        self.is_busy.set()
        assert self.is_up.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        names = [call.channel for call in exchange.batch]
        self.executed += [name for name in names if name not in self.executed]
        return names

    async def close(self) -> None:
        pass

    async def _drop(self, connection: Any) -> None:
        pass


class Sending:
    """A sender and its Redis."""

    def __init__(self, **limits: Any) -> None:
        self.made: list[Redis] = []
        self.sender = ThreadSender(parse("redis://127.0.0.1:1/0"), DeliveryLimits(**limits), 1000, self._connect)
        self._count = 0

    def _connect(self, target: RedisTarget, timeout: float, client_name: str) -> Redis:
        self.made.append(Redis(target, timeout, client_name))
        return self.made[-1]

    @property
    def redis(self) -> Redis:
        return self.made[-1]

    def call(self) -> Call:
        self._count += 1
        return Call(f"c{self._count}", ["key"], SCRIPT)

    def deliver(self) -> str:
        call = self.call()
        self.sender.deliver([call])
        name: str = call.outcome()
        return name

    def check(self) -> None:
        """Another thread's call gets through, and so does a flush."""
        delivered: list[str] = []

        def work() -> None:
            delivered.append(self.deliver())
            self.sender.flush()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert delivered, "it hangs"
        assert not thread.is_alive(), "the flush hangs"


class Interrupt(BaseException):
    """As a signal handler raises it."""


def at_instruction(number: int, act: Callable[[], None], function: Callable[[], object]) -> bool:
    """Call a function, and do something at its so-manieth instruction in the client; False if it has not so many."""
    count = 0

    def trace(frame: Any, event: str, _argument: object) -> Any:
        nonlocal count
        if "relay_client" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == number:
                act()
        return trace

    previous = sys.gettrace()
    sys._getframe().f_trace_opcodes = (
        True  # CPython 3.12 traces instructions only if some frame asks for it before this
    )
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(previous)
    return count >= number


def interrupt() -> None:
    raise Interrupt


def post_and_flush(sending: Sending) -> None:
    sending.sender.post([sending.call()])
    sending.sender.flush()


ACTIONS: dict[str, Callable[[Sending], object]] = {"deliver": Sending.deliver, "post and flush": post_and_flush}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("is_first", [True, False])
def test_an_exception_at_any_instruction_leaves_nothing_locked(action: str, is_first: bool) -> None:
    """Also while the thread is being started."""
    sending = Sending()
    for number in range(1, 5000):
        if is_first:
            sending = Sending()
        try:
            has_more = at_instruction(number, interrupt, partial(ACTIONS[action], sending))
        except Interrupt:
            has_more = True
        sending.check()
        if is_first:
            sending.sender.close()
        if not has_more:
            break
    else:
        pytest.fail("it has no end")
    assert number > 100


def test_a_handler_may_publish_at_any_instruction() -> None:
    sending = Sending()
    inner: list[str] = []
    for number in range(1, 5000):
        if not at_instruction(number, lambda: inner.append(sending.deliver()), sending.deliver):
            break
        assert len(inner) == number
    assert number > 100
    assert len(sending.redis.executed) == 2 * number - 1


def test_a_finalizer_in_the_senders_own_thread_posts_and_does_not_wait() -> None:
    sending = Sending()
    ran = threading.Event()

    def finalize() -> None:
        sending.sender.deliver([sending.call()])
        sending.sender.flush()
        ran.set()

    sending.sender.run_soon(finalize)
    assert ran.wait(PATIENCE)
    sending.check()
    assert sending.redis.executed[0] == "c1"


def test_a_function_that_fails_in_the_senders_thread_holds_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sending = Sending()

    def fail() -> None:
        raise ValueError("broken")

    sending.sender.run_soon(fail)
    sending.check()
    assert [record.getMessage() for record in caplog.records] == ["a function for the sender thread has failed"]


def test_a_thread_looks_by_itself_only_where_it_has_just_found_something(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = ThreadSignal()
    waits: list[float | None] = []

    def wait_blocking(signal: ThreadSignal, timeout: float | None) -> bool:
        waits.append(timeout)
        return signal._lock.acquire(blocking=False)

    monkeypatch.setattr(ThreadSignal, "wait_blocking", wait_blocking)
    assert not run_blocking(signal.wait(5.0))
    assert waits == [5.0]
    signal.set_soon()
    assert run_blocking(signal.wait(5.0))
    waits.clear()
    assert not run_blocking(signal.wait(0.05))
    assert max(wait for wait in waits if wait is not None) <= 0.01


def test_a_caller_waits_no_longer_than_its_deadline_and_one_try() -> None:
    sending = Sending(deadline=0.2, timeout=0.2)
    sending.redis.is_up.clear()
    started = monotonic()
    with pytest.raises(DeliveryTimedOut) as sent:
        sending.deliver()
    with pytest.raises(DeliveryTimedOut) as waiting:
        sending.deliver()
    assert monotonic() - started < 2.0
    assert (sent.value.may_have_arrived, waiting.value.may_have_arrived) == (True, False)
    sending.redis.is_up.set()
    sending.check()
    assert "c2" not in sending.redis.executed


def test_what_was_interrupted_before_it_was_sent_is_not_sent() -> None:
    sending = Sending()
    sending.deliver()
    sending.redis.is_up.clear()
    sending.redis.is_busy.clear()
    sending.sender.post([sending.call()])
    assert sending.redis.is_busy.wait(PATIENCE)
    call = sending.call()
    with pytest.raises(Interrupt):
        interrupt_while_waiting(sending, call)
    sending.redis.is_up.set()
    sending.check()
    assert sending.redis.executed[:2] == ["c1", "c2"]
    assert call.channel not in sending.redis.executed


def interrupt_while_waiting(sending: Sending, call: Call) -> None:
    """Raise where a lock would be waited for."""

    class Waiting(Request):
        def wait(self, timeout: float) -> bool:
            raise Interrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "Request", Waiting)
        sending.sender.deliver([call])


def test_limits_hold_while_redis_hangs() -> None:
    sending = Sending(max_waiting=3, deadline=5.0, timeout=5.0)
    sending.redis.is_up.clear()
    sending.sender.post([sending.call()])
    assert sending.redis.is_busy.wait(PATIENCE)
    for _ in range(2):
        sending.sender.post([sending.call()])
    with pytest.raises(BufferFull, match="3 updates"):
        sending.sender.post([sending.call()])
    with pytest.raises(BufferFull):
        sending.deliver()
    assert sending.sender.waiting == 3
    sending.redis.is_up.set()
    sending.sender.flush()
    sending.check()
    assert sending.sender.waiting == 0
    heavy = Sending(max_waiting_bytes=2000)
    heavy.redis.is_up.clear()
    heavy.sender.post([Call("a", ["k"], command=("x", b"x" * 1000))])
    assert heavy.redis.is_busy.wait(PATIENCE)
    with pytest.raises(BufferFull):
        heavy.sender.post([Call("b", ["k"], command=("x", b"x" * 1000))])
    heavy.redis.is_up.set()
    heavy.sender.flush()


def test_an_error_of_the_library_fails_what_was_sent_and_nothing_else() -> None:
    sending = Sending()
    sending.redis.error = ZeroDivisionError("a bug")
    with pytest.raises(DeliveryRefused, match="a bug"):
        sending.deliver()
    sending.sender.post([sending.call()])
    with pytest.raises(BackgroundDeliveryError, match="a bug"):
        sending.sender.flush()
    sending.redis.error = None
    sending.check()


def test_the_thread_ends_when_it_is_idle_and_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_IDLE_SECONDS", 0.001)
    sending = Sending()
    for _ in range(200):
        sending.deliver()
        threading.Event().wait(0.001)
    assert len(sending.redis.executed) == 200


def test_many_threads_hand_over_and_each_call_is_sent_once() -> None:
    sending = Sending(max_waiting=10_000)
    calls = [[Call(f"{number}-{count}", ["key"], SCRIPT) for count in range(200)] for number in range(8)]

    def work(some: Sequence[Call]) -> None:
        for call in some:
            sending.sender.deliver([call])

    workers = [threading.Thread(target=work, args=(some,)) for some in calls]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    assert sorted(sending.redis.executed) == sorted(call.channel for some in calls for call in some)
    for some in calls:
        names = {call.channel for call in some}
        assert [name for name in sending.redis.executed if name in names] == [call.channel for call in some]


def test_closed_it_takes_no_more_and_its_thread_ends() -> None:
    sending = Sending()
    sending.sender.post([sending.call()])
    sending.sender.close()
    assert sending.redis.executed == ["c1"]
    with pytest.raises(PublisherClosed):
        sending.deliver()
    sending.sender.close()
    never_used = Sending()
    never_used.sender.close()
    assert not [
        thread for thread in threading.enumerate() if thread.name == "relay-publisher" and _sends(thread, never_used)
    ]


def _sends(thread: threading.Thread, sending: Sending) -> bool:
    return sending.sender._thread == thread.ident
