"""Subscribers of asyncio and of threads: what Trio's has no counterpart for."""

import asyncio
import gc
import os
import signal
import socket
import threading
import warnings
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import pytest
import relay_client
import relay_client.aio
from relay_client.subscriber import ConnectionChange, Limits, SubscriptionClosed, SubscriptionError
from relay_client.subscriber.happy_eyeballs import connect_socket, interleaved

from tests.conftest import StartRelay
from tests.harness import PATIENCE, RedisServer

QUICK = Limits(retry_base=0.05, retry_cap=0.1)


def run(main: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run`, whatever trio-asyncio has made of that."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main)


@pytest.fixture
def closed_url() -> str:
    """A URL where closed_url listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"ws://127.0.0.1:{unused.getsockname()[1]}/ws/tasks"


@contextmanager
def silent_server() -> Iterator[str]:
    """A URL where connections are accepted, and nothing else happens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/ws/tasks"


# asyncio.


def test_asyncio_after_the_block(closed_url: str) -> None:
    async def main() -> None:
        async with relay_client.aio.subscribe(closed_url, ["t"], limits=QUICK) as updates:
            pass
        with pytest.raises(SubscriptionClosed):
            await anext(updates)
        assert updates.tasks == ["t"]

    run(main())


def test_asyncio_cancelled_in_any_phase_leaves_nothing_open(closed_url: str) -> None:
    async def main(url: str, delay: float) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(delay), relay_client.aio.subscribe(url, ["t"], limits=QUICK) as updates:
                await anext(updates)

    with silent_server() as silent:
        for url in (closed_url, silent):
            for delay in (0.0, 0.001, 0.005, 0.05):
                run(main(url, delay))
    gc.collect()  # a socket left open would be warned about now, and warnings are errors


# Connecting to a host with several addresses.


def test_an_address_that_drops_packets_does_not_cost_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        full, good = (stack.enter_context(socket.socket()) for _ in range(2))
        for each in (full, good):
            each.bind(("127.0.0.1", 0))
        full.listen(0)
        good.listen()
        for _ in range(3):  # its queue is full after that, and the kernel drops what comes
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())

        async def main() -> None:
            loop = asyncio.get_running_loop()

            async def two_addresses(*_: Any, **__: Any) -> Any:
                stream = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
                return [(*stream, full.getsockname()), (*stream, good.getsockname())]

            monkeypatch.setattr(loop, "getaddrinfo", two_addresses)
            async with asyncio.timeout(PATIENCE):
                with await connect_socket("two.example", 0) as connected:
                    assert connected.getpeername() == good.getsockname()

        run(main())


def test_no_address_answers() -> None:
    async def main() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectionRefusedError):
                await connect_socket(*unused.getsockname())

    run(main())


def test_address_families_take_turns() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    addresses: list[Any] = [(family, 0, 0, "", (str(number), 0)) for number, family in enumerate([six, six, six, four])]
    assert [address[0] for address in interleaved(addresses)] == [six, four, six, six]


# Threads.


def test_threads_wait_for_so_long(closed_url: str) -> None:
    with relay_client.subscribe(closed_url, ["t"], limits=QUICK) as updates:
        with pytest.raises(TimeoutError, match=r"0\.05 s"):
            updates.get(timeout=0.05)
        with pytest.raises(TimeoutError):
            updates.established(timeout=0.05)


def test_threads_after_the_block(closed_url: str) -> None:
    positions = {"task:t": ("e", 3)}
    with relay_client.subscribe(closed_url, ["t"], positions=positions, limits=QUICK) as updates:
        assert threading.active_count() > 1
    assert not [thread for thread in threading.enumerate() if thread.name == "relay-subscriber"]
    for closed in (updates.get, updates.established, lambda: updates.subscribe("u")):
        with pytest.raises(SubscriptionClosed):
            closed()
    assert updates.positions == positions
    gc.collect()


def test_leaving_wakes_a_thread_that_waits(closed_url: str) -> None:
    ended: list[Exception] = []

    def consume() -> None:
        waiting.set()
        try:
            next(updates)
        except SubscriptionError as error:
            ended.append(error)

    waiting = threading.Event()
    with relay_client.subscribe(closed_url, ["t"], limits=QUICK) as updates:
        consumer = threading.Thread(target=consume)
        consumer.start()
        waiting.wait(PATIENCE)
    consumer.join(PATIENCE)
    assert [type(error) for error in ended] == [SubscriptionClosed]


def test_an_exception_out_of_a_signal_handler_leaves_the_subscription_usable(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    relay = start_relay("serve")
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with relay_client.subscribe(relay.url, ["t"], limits=QUICK) as updates:
            updates.established(PATIENCE)
            for number in range(10):
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                with pytest.raises(Interrupted):
                    updates.get(PATIENCE)
                redis_server.publish_task("t", n=number)
                assert updates.get(PATIENCE).data == {"n": number}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_threads_share_a_subscription(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay("serve")
    taken: list[int] = []

    def consume() -> None:
        while (number := updates.get(PATIENCE).data["n"]) < 100:
            taken.append(number)

    with relay_client.subscribe(relay.url, ["t"], limits=Limits(max_waiting=5)) as updates:
        updates.established(PATIENCE)
        consumers = [threading.Thread(target=consume) for _ in range(4)]
        for consumer in consumers:
            consumer.start()
        for number in range(100 + len(consumers)):
            redis_server.publish_task("t", n=number)
        for consumer in consumers:
            consumer.join(PATIENCE)
    assert sorted(taken) == list(range(100))


def test_a_forked_child_has_to_subscribe_itself(closed_url: str) -> None:
    with relay_client.subscribe(closed_url, ["t"], limits=QUICK) as updates:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads
            child = os.fork()
        if child == 0:
            try:
                updates.get(timeout=5)
            except RuntimeError as error:
                os._exit(0 if "fork" in str(error) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_callback_that_fails_ends_the_iteration(closed_url: str) -> None:
    def on_connection(change: ConnectionChange) -> None:
        raise LookupError("mine")

    subscription = relay_client.subscribe(closed_url, ["t"], limits=QUICK, on_connection=on_connection)
    with subscription as updates, pytest.raises(SubscriptionError, match=r"has failed: LookupError\('mine'\)"):
        updates.get(PATIENCE)
