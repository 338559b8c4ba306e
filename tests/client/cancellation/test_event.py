"""The event of a cancellation, from several threads and from signal handlers."""

import signal
import threading
from contextlib import suppress

from relay_client.cancellation.event import CancelEvent


def test_it_is_false_until_it_is_set() -> None:
    event = CancelEvent()
    assert not event
    assert not event.wait(0)
    event.set("by its owner")
    event.set("again")
    assert event
    assert event.is_set()
    assert event.wait(0)
    assert event.reason == "by its owner"


def test_it_wakes_all_threads_that_wait() -> None:
    event = CancelEvent()
    woken: list[bool] = []
    threads = [threading.Thread(target=lambda: woken.append(event.wait(30))) for _ in range(3)]
    for thread in threads:
        thread.start()
    event.set()
    for thread in threads:
        thread.join(30)
    assert woken == [True] * 3


def test_a_signal_handler_may_set_it_while_its_own_thread_waits() -> None:
    event = CancelEvent()
    before = signal.signal(signal.SIGALRM, lambda *_: event.set("alarm"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with suppress(InterruptedError):
            assert event.wait(30)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert event.reason == "alarm"
