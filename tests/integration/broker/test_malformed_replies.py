"""A server that is no Redis, or one that garbles its replies: it is an error of that connection, and the relay lives on."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio

from relay.broker.opening import open_redis
from relay.broker.service import RedisBroker
from relay.config import RedisSettings, Settings
from relay.core.errors import BrokerError, BrokerUnavailable
from tests.harness import RedisServer
from tests.integration.broker.durable import check_writes

#: Bytes that no Redis sends, or that hiredis cannot make sense of.
GARBLED = {
    "no protocol at all": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an array larger than memory": b"*4294967295\r\n",
    "an array larger than can be": b"*99999999999999999999\r\n",
    "a bulk string larger than can be": b"$99999999999999999999\r\n",
    "a negative length": b"$-7\r\nabc\r\n",
    "a number that is none": b":12x4\r\n",
    "a map whose key is an array": b"%1\r\n*1\r\n:1\r\n:2\r\n",
    "a status out of turn": b"+PONG\r\n",
    "a number out of turn": b":1\r\n",
    "nothing where a list is expected": b"*-1\r\n",
    "an empty list": b"*0\r\n",
    "a message without parts": b"*1\r\n$7\r\nmessage\r\n",
    "a message of numbers": b"*3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n",
    "a message of another kind": b"*3\r\n$5\r\nhello\r\n$1\r\na\r\n$1\r\nb\r\n",
    "a pattern's message that is too short": b"*3\r\n$8\r\npmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
    "a list of lists": b"*2\r\n*1\r\n:1\r\n*0\r\n",
}


class GarblingProxy:
    """Stands before a Redis; what it sends is replaced, or broken off, on the connections for which `garble` says so.

    Attributes:
        garble: Takes the bytes of a client so far, and returns what to send in place of the next reply, or None.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.garble: Callable[[bytes], bytes | None] = lambda _: None
        self.garbled = 0

    async def serve(self, client: trio.SocketStream) -> None:
        asked = bytearray()
        try:
            async with (
                client,
                await trio.open_tcp_stream("127.0.0.1", self.target_port) as server,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._up, client, server, asked, nursery.cancel_scope)
                async for data in server:
                    reply = self.garble(bytes(asked))
                    if reply is None:
                        await client.send_all(data)
                        continue
                    self.garbled += 1
                    await client.send_all(data[: len(data) // 2] if reply == b"" else reply)
                    if reply == b"":  # in the middle of a reply
                        break
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass

    @staticmethod
    async def _up(
        client: trio.SocketStream, server: trio.SocketStream, asked: bytearray, scope: trio.CancelScope
    ) -> None:
        async for data in client:
            asked += data
            await server.send_all(data)
        scope.cancel()


@asynccontextmanager
async def behind_proxy(server: RedisServer) -> AsyncIterator[tuple[RedisBroker, GarblingProxy]]:
    read: Any = Settings
    redis_settings: Any = RedisSettings
    settings = read(_env_file=None, redis_timeout=0.5, redis_health_interval=0.05)
    proxy = GarblingProxy(server.port)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, proxy.serve, 0, host="127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            async with open_redis(f"redis://127.0.0.1:{port}/0", settings, redis_settings(_env_file=None)) as redis:
                yield redis, proxy
            nursery.cancel_scope.cancel()


async def until(check: Callable[[], object]) -> None:
    while not check():  # noqa: ASYNC110 - what is waited for is another process's doing
        await trio.sleep(0.01)


def in_pubsub(asked: bytes) -> bool:
    return b"SUBSCRIBE" in asked


@pytest.mark.parametrize("what", [*GARBLED, "cut off in the middle"])
async def test_a_garbled_subscription_is_made_again(what: str, redis_server: RedisServer) -> None:
    received: list[bytes] = []
    async with behind_proxy(redis_server) as (redis, proxy), trio.open_nursery() as nursery:
        redis.subscribe_raw("plain", lambda _, message: received.append(message))
        nursery.start_soon(redis.start_listening)
        await until(lambda: redis.alive)
        reply = GARBLED.get(what, b"")
        proxy.garble = lambda asked: reply if in_pubsub(asked) and proxy.garbled < 2 else None
        await until(lambda: proxy.garbled >= 2)
        await until(lambda: redis.alive)
        await redis.publish("plain", b"afterwards")
        await until(lambda: b"afterwards" in received)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("what", [*GARBLED, "cut off in the middle"])
async def test_a_garbled_answer_is_an_error_of_that_call(what: str, redis_server: RedisServer) -> None:
    reply = GARBLED.get(what, b"")
    async with behind_proxy(redis_server) as (redis, proxy):
        tasks = redis.tasks(100)
        assert await redis.publish_task_update("t", {"n": 1}) is not None
        for call in (
            lambda: redis.publish_task_update("t", {"n": 2}),
            lambda: tasks.get("t"),
            lambda: tasks.page(10, None),
            lambda: tasks.mark_stalled(0.001),
            lambda: check_writes(redis),
            lambda: redis._commands.count_subscribers("x"),
        ):
            proxy.garble = lambda asked: reply if b"EVALSHA" in asked or b"NUMSUB" in asked else None
            with suppress(BrokerError):
                await call()
            proxy.garble = lambda _: None
        with trio.move_on_after(5):
            while True:
                try:
                    task = await tasks.get("t")
                    break
                except BrokerUnavailable:
                    await trio.sleep(0.01)
        assert task is not None


@pytest.mark.parametrize("what", [*GARBLED, "cut off in the middle"])
async def test_a_garbled_handshake_is_tried_again(what: str, redis_server: RedisServer) -> None:
    reply = GARBLED.get(what, b"")
    async with behind_proxy(redis_server) as (redis, proxy), trio.open_nursery() as nursery:
        proxy.garble = lambda _: reply
        nursery.start_soon(redis.start_listening)
        with suppress(BrokerError):
            await redis.publish_task_update("t", {"n": 1})
        await until(lambda: proxy.garbled >= 3)
        proxy.garble = lambda _: None
        await until(lambda: redis.alive)
        assert await redis.publish_task_update("t", {"n": 1}) is not None
        nursery.cancel_scope.cancel()
