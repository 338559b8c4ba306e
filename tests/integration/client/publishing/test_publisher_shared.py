"""Who posts without end takes nobody's turn; and what is said of a loss may be published again."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import relay_client
import relay_client.aio
import relay_client.trio
import trio
from relay_client.errors import BufferFull, NotDelivered
from relay_wire.position import Position

from tests.harness import PATIENCE, RedisServer, eventually


def offset(position: Position | None) -> int:
    assert position is not None
    return position.offset


@contextlib.contextmanager
def far_away(redis_server: RedisServer) -> Iterator[str]:
    """The same Redis, 3 ms away."""

    def pump(source: socket.socket, target: socket.socket, delay: float) -> None:
        with source, contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(delay)
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", redis_server.port))
                for source, target, delay in ((client, server, 0.003), (server, client, 0.0)):
                    threads.append(threading.Thread(target=pump, args=(source, target, delay)))
                    threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        listener.shutdown(socket.SHUT_RDWR)
        for thread in (acceptor, *threads):
            thread.join()


def test_threads_have_their_turn_beside_one_that_posts_without_end(redis_server: RedisServer) -> None:
    ended = threading.Event()
    with far_away(redis_server) as url, relay_client.Publisher(url, deadline=PATIENCE) as publisher:

        def post() -> None:
            while not ended.is_set():
                with contextlib.suppress(BufferFull):
                    publisher.post_task_update("noise", {"n": 1})
                time.sleep(0.001)

        poster = threading.Thread(target=post)
        poster.start()
        try:
            for number in range(5):  # each fails at its deadline when it gets no turn
                assert offset(publisher.publish_task_update("t", {"n": number})) == number + 1
            eventually(lambda: publisher.waiting)  # the other thread still posts
        finally:
            ended.set()
            poster.join()


def test_tasks_of_asyncio_have_their_turn_beside_one_that_posts_without_end(redis_server: RedisServer) -> None:
    async def main() -> None:
        async with (
            relay_client.aio.Publisher(redis_server.url, deadline=PATIENCE) as publisher,
            asyncio.TaskGroup() as group,
        ):

            async def post() -> None:
                while True:
                    with contextlib.suppress(BufferFull):
                        publisher.post_task_update("noise", {"n": 1})
                    await asyncio.sleep(0)

            poster = group.create_task(post())
            await asyncio.sleep(0.1)
            async with asyncio.timeout(PATIENCE / 2):
                for number in range(5):
                    assert offset(await publisher.publish_task_update("t", {"n": number})) == number + 1
                await publisher.flush()
            poster.cancel()

    asyncio.run(main())


async def test_tasks_of_trio_have_their_turn_beside_one_that_posts_without_end(redis_server: RedisServer) -> None:
    async with (
        relay_client.trio.Publisher(redis_server.url, deadline=PATIENCE) as publisher,
        trio.open_nursery() as nursery,
    ):

        async def post() -> None:
            while True:
                with contextlib.suppress(BufferFull):
                    publisher.post_task_update("noise", {"n": 1})
                await trio.lowlevel.checkpoint()

        nursery.start_soon(post)
        await trio.sleep(0.1)
        with trio.fail_after(PATIENCE / 2):
            for number in range(5):
                assert offset(await publisher.publish_task_update("t", {"n": number})) == number + 1
            await publisher.flush()
        nursery.cancel_scope.cancel()


def test_a_handler_of_logs_may_publish_what_is_said_of_a_loss(redis_server: RedisServer) -> None:
    """It would wait for a lock that the thread holds which logs."""
    said: list[str] = []
    with relay_client.Publisher(redis_server.url, deadline=0.6, timeout=0.3) as publisher:

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                said.append(record.getMessage())
                publisher.post_general_update({"log": record.getMessage()})

        logger, handler = logging.getLogger("relay_client"), Handler()
        logger.addHandler(handler)
        try:
            publisher.publish_task_update("t", {"n": 1})
            redis_server.freeze()
            publisher.post_task_update("t", {"n": 2})
            deadline = time.monotonic() + PATIENCE
            while not said and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            logger.removeHandler(handler)
            redis_server.thaw()
        assert "posted update of task:t lost" in said[0]
        published = threading.Thread(target=publisher.publish_task_update, args=("t", {"n": 3}), daemon=True)
        published.start()
        published.join(PATIENCE)
        assert not published.is_alive()
        with pytest.raises(NotDelivered):
            publisher.flush()
