"""Subscribers on servers that misbehave on purpose, and what the caller may do."""

import gc
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from relay_client.subscriber import (
    ConnectionChange,
    Limits,
    RelayRefused,
    RelayUnreachable,
)
from relay_client.subscriber import supervisor as supervisor_module
from relay_client.trio import subscribe as subscribe_from_trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from tests.harness import PATIENCE
from tests.integration.client.subscriber.bridge import Subscribe
from tests.integration.client.subscriber.servers import QUICK, Shared, publishing, take, within_patience

Handler = Callable[[WebSocketConnection, int], Awaitable[None]]


@asynccontextmanager
async def scripted(handler: Handler) -> AsyncIterator[str]:
    """A WebSocket server; the handler gets each connection and its number."""
    count = 0

    async def serve(request: WebSocketRequest) -> None:
        nonlocal count
        count += 1
        with suppress(ConnectionClosed):  # the subscriber has left
            await handler(await request.accept(), count)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, serve, "127.0.0.1", 0, None)
        yield f"ws://127.0.0.1:{server.port}/ws/tasks"
        nursery.cancel_scope.cancel()


async def serve_general(connection: WebSocketConnection) -> dict[str, Any]:
    """Answer the first subscription, which is that to general updates; returns it."""
    request: dict[str, Any] = json.loads(await connection.get_message())
    position = {"epoch": "e", "offset": 0}
    answer: dict[str, Any] = {"type": "subscribed", "channel": "general", "position": position, "state": False}
    if request["position"] is not None:
        answer["recovered"] = True
    await connection.send_message(json.dumps(answer))
    return request


async def send_general(connection: WebSocketConnection, number: int) -> None:
    position = {"epoch": "e", "offset": number}
    await connection.send_message(json.dumps({"type": "general_update", "data": {"n": number}, "position": position}))


async def test_a_relay_that_falls_silent_is_left(subscribe: Subscribe) -> None:
    """It is asked, does not answer, and another connection goes on from there."""
    asked: list[list[str]] = []

    async def handler(connection: WebSocketConnection, number: int) -> None:
        request = await serve_general(connection)
        assert request["position"] == (None if number == 1 else {"epoch": "e", "offset": 1})
        await send_general(connection, number)
        types: list[str] = []
        asked.append(types)
        while True:
            types.append(json.loads(await connection.get_message())["type"])

    limits = Limits(heartbeat=0.2, heartbeat_timeout=0.2, retry_base=0.05)
    changes: list[str] = []
    async with (
        scripted(handler) as url,
        subscribe(
            url, general=True, limits=limits, on_connection=lambda change: changes.append(change.detail)
        ) as updates,
    ):
        assert [update.data["n"] for update in await take(updates, 2)] == [1, 2]
    assert asked[0] == ["ping"]
    assert "the relay has been silent for 0.4 s" in changes


async def test_a_relay_that_only_answers_is_not_left(subscribe: Subscribe) -> None:
    async def handler(connection: WebSocketConnection, number: int) -> None:
        assert number == 1
        await serve_general(connection)
        for _ in range(5):
            assert json.loads(await connection.get_message()) == {"type": "ping"}
            await connection.send_message('{"type":"pong","timestamp":"now"}')
        await send_general(connection, 1)
        await connection.get_message()

    limits = Limits(heartbeat=0.05, heartbeat_timeout=5)
    async with scripted(handler) as url, subscribe(url, general=True, limits=limits) as updates:
        assert [update.data["n"] for update in await take(updates, 1)] == [1]


async def test_close_codes_are_honoured(subscribe: Subscribe) -> None:
    async def handler(connection: WebSocketConnection, number: int) -> None:
        await serve_general(connection)
        await send_general(connection, number)
        if number == 1:  # a code that RFC 6455 does not know, as proxies send it
            await connection._stream.send_all(b"\x88\x02" + (1014).to_bytes(2))
            await connection.get_message()
        else:
            await connection.aclose([1000, 1001, 4008, 3000, 1011, 1008][number - 2], "because")

    async with scripted(handler) as url, subscribe(url, general=True, limits=QUICK) as updates:
        assert [update.data["n"] for update in await take(updates, 7)] == [1, 2, 3, 4, 5, 6, 7]
        with pytest.raises(RelayRefused, match="1008 because") as refused:
            await take(updates, 1)
        assert refused.value.code == 1008


async def test_too_long_a_message_is_told(subscribe: Subscribe) -> None:
    async def handler(connection: WebSocketConnection, number: int) -> None:
        await serve_general(connection)
        await connection.send_message("x" * 2000)
        await connection.get_message()

    async with scripted(handler) as url, subscribe(url, general=True, limits=Limits(max_message=1000)) as updates:
        with pytest.raises(RelayRefused, match=r"1000 characters"):
            await take(updates, 1)


Accept = Callable[[trio.SocketStream, int], Awaitable[None]]


@asynccontextmanager
async def bare(accept: Accept) -> AsyncIterator[str]:
    """A TCP server."""
    count = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal count
        count += 1
        await accept(stream, count)

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _hangs_up(stream: trio.SocketStream) -> None:
    await stream.receive_some()


async def _resets(stream: trio.SocketStream) -> None:
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def _is_no_web_server(stream: trio.SocketStream) -> None:
    await stream.send_all(b"220 mail.example ESMTP\r\n\r\n")
    await trio.sleep_forever()


async def _is_another_web_server(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    await trio.sleep_forever()


async def _does_not_answer(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def _is_starting(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (_hangs_up, "closed during the handshake"),
        (_resets, "cannot connect"),
        (_is_no_web_server, "cannot connect"),
        (_is_another_web_server, "200"),
        (_does_not_answer, "took more than 0.3 s"),
        (_is_starting, "503"),
    ],
)
async def test_handshakes_that_fail_are_tried_again(
    subscribe: Subscribe, wrong: Callable[[trio.SocketStream], Awaitable[None]], reason: str
) -> None:
    """And nothing is left open."""
    changes: list[ConnectionChange] = []
    tried_twice = trio.Event()

    async def accept(stream: trio.SocketStream, number: int) -> None:
        if number == 3:
            tried_twice.set()
        await wrong(stream)

    limits = Limits(connect_timeout=0.3, retry_base=0.01)
    async with bare(accept) as url, subscribe(url, general=True, limits=limits, on_connection=changes.append):
        with within_patience():
            await tried_twice.wait()
    assert all(reason in str(change) and "trying again in" in str(change) for change in changes), changes
    gc.collect()  # a socket left open would be warned about now, and warnings are errors


async def test_gives_up_when_told_to(subscribe: Subscribe) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nothing listens
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}"
        limits = Limits(give_up_after=0.3, retry_base=0.01)
        async with subscribe(url, general=True, limits=limits) as updates:
            with pytest.raises(RelayUnreachable, match=r"0\.3 s.*cannot connect"):
                await take(updates, 1)
            with pytest.raises(RelayUnreachable):
                await updates.established()


async def test_leaving_says_goodbye(subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch) -> None:
    """And waits for the answer, but for no more."""
    monkeypatch.setattr(supervisor_module, "CLOSE_TIMEOUT", 10 * PATIENCE)
    codes: list[int] = []

    async def handler(connection: WebSocketConnection, number: int) -> None:
        await serve_general(connection)
        try:
            while True:
                await connection.get_message()
        except ConnectionClosed as closed:
            codes.append(closed.reason.code if closed.reason else 0)

    async with scripted(handler) as url:
        with within_patience():
            for _ in range(20):
                async with subscribe(url, general=True, limits=QUICK) as updates:
                    await updates.established()
    assert codes == [1000] * 20


async def test_cancelling_closes_the_socket_at_once() -> None:
    """Even that of a relay which reads nothing, so that no close frame could be sent."""
    open_now = trio.Event()
    closed = trio.Event()

    async def handler(connection: WebSocketConnection, number: int) -> None:
        await serve_general(connection)
        await send_general(connection, 1)
        open_now.set()
        try:
            while True:
                await connection.get_message()
        finally:
            closed.set()

    with within_patience():
        async with scripted(handler) as url:
            with trio.CancelScope() as scope:
                async with (
                    subscribe_from_trio(url, general=True, limits=QUICK) as updates,
                    trio.open_nursery() as nursery,
                ):

                    async def cancel() -> None:
                        await open_now.wait()
                        scope.cancel()

                    nursery.start_soon(cancel)
                    await take(updates, 2)
            assert scope.cancelled_caught
            await closed.wait()


async def test_taking_an_update_can_be_cancelled_without_losing_one(shared: Shared, task_id: str) -> None:
    redis_server, relay = shared
    async with (
        publishing(redis_server) as redis,
        subscribe_from_trio(relay.url, [task_id], limits=QUICK) as updates,
    ):
        with within_patience():
            await updates.established()
        for number in range(50):
            await redis.publish_task_update(task_id, {"n": number})
        numbers: list[int] = []
        while len(numbers) < 50:
            with trio.CancelScope() as scope:
                if len(numbers) % 2 == 0:
                    scope.cancel()
                numbers.append((await anext(updates)).data["n"])
            if scope.cancelled_caught:
                numbers.append((await take(updates, 1))[0].data["n"])
    assert numbers == list(range(50))


async def test_what_the_block_raises_comes_out_as_it_is(subscribe: Subscribe) -> None:
    async def handler(connection: WebSocketConnection, number: int) -> None:
        await serve_general(connection)
        await connection.get_message()

    async with scripted(handler) as url:
        with pytest.raises(LookupError, match="mine"):
            async with subscribe(url, general=True, limits=QUICK):
                raise LookupError("mine")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"url": "ftp://relay/ws/tasks"}, "ws://host"),
        ({"url": "ws:///ws/tasks"}, "ws://host"),
        ({"url": "ws://me:secret@relay/"}, "header"),
        ({"url": "ws://relay", "ssl_context": ssl.create_default_context()}, "wss://"),
        ({"url": "ws://relay", "headers": {"X": "a\r\nY: b"}}, "one line"),
    ],
)
async def test_bad_arguments_are_refused(subscribe: Subscribe, arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        async with subscribe(**arguments):
            pytest.fail("entered")
    with pytest.raises(ValueError, match="heartbeat must be positive"):
        Limits(heartbeat=0)


def test_needs_no_more_than_it_says() -> None:
    """Neither what the server needs, nor what publishers need; and it says what is missing."""
    blocked = "import sys; sys.modules.update(dict.fromkeys({names}, None)); from relay_client import subscribe"
    names = ["relay", "msgspec", "redis", "trio", "trio_asyncio", "trio_websocket", "hiredis"]
    subprocess.run([sys.executable, "-c", blocked.format(names=names)], check=True, timeout=PATIENCE)
    without = [sys.executable, "-c", blocked.format(names=["wsproto"])]
    missing = subprocess.run(without, check=False, timeout=PATIENCE, capture_output=True, text=True)
    assert "pip install 'trio-relay-client[websocket]'" in missing.stderr


async def test_headers_reach_the_other_side(subscribe: Subscribe) -> None:
    heads: list[bytes] = []
    arrived = trio.Event()

    async def accept(stream: trio.SocketStream, number: int) -> None:
        heads.append(bytes(await stream.receive_some()))
        arrived.set()
        await trio.sleep_forever()

    async with bare(accept) as url, subscribe(f"{url}/?a=b", headers={"Authorization": "Bearer x"}, limits=QUICK):
        with within_patience():
            await arrived.wait()
    assert heads[0].startswith(b"GET /ws/tasks?a=b HTTP/1.1\r\n")
    assert b"authorization: Bearer x" in heads[0] or b"Authorization: Bearer x" in heads[0]
