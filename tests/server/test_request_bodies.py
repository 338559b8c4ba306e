"""Bodies are received within a size, a time and a number, and then handed on whole."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.server.request_bodies import (
    MAX_BYTES,
    MAX_BYTES_PER_ADDRESS,
    BodyRefused,
    ClientLeft,
    RequestBodies,
)

LEFT = {"type": "http.disconnect"}


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def scope(length: str | None = None) -> dict[str, Any]:
    return {"headers": [] if length is None else [(b"content-length", length.encode())]}


class Client:
    """Sends messages, and then nothing."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)

    async def receive(self) -> dict[str, Any]:
        if not self.messages:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.messages.pop(0)


async def received(bodies: RequestBodies, client: Client, length: str | None = None, address: str = "a") -> bytes:
    """The body, as a handler would get it."""
    async with bodies.received(address, scope(length), client.receive, 4) as receive:
        message = await receive()
    assert message["more_body"] is False
    body: bytes = message["body"]
    return body


async def test_a_body_is_handed_on_whole() -> None:
    client = Client(part(b"ab", more=True), part(b"", more=True), part(b"cd"), LEFT)
    async with RequestBodies(1.0).received("a", scope("4"), client.receive, 4) as receive:
        assert await receive() == part(b"abcd")
        assert await receive() == LEFT


@pytest.mark.parametrize(
    ("length", "messages"),
    [("5", []), ("9" * 5000, []), (None, [part(b"abc", more=True), part(b"de")]), ("junk", [part(b"abcde")])],
)
async def test_a_long_body_is_refused(length: str | None, messages: list[dict[str, Any]]) -> None:
    with pytest.raises(BodyRefused) as refused:
        await received(RequestBodies(1.0), Client(*messages), length)
    assert (refused.value.status, refused.value.code) == (413, "body_too_large")


async def test_a_body_in_many_small_pieces_is_refused() -> None:
    with pytest.raises(BodyRefused) as refused:
        await received(RequestBodies(1.0), Client(*[part(b"", more=True)] * 3000))
    assert (refused.value.status, refused.value.code) == (413, "body_in_pieces")


async def test_a_slow_body_is_given_up(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    with pytest.raises(BodyRefused) as refused:
        await received(RequestBodies(3.0), Client(part(b"a", more=True)))
    assert (refused.value.status, refused.value.code) == (408, "body_timeout")
    assert trio.current_time() - started == pytest.approx(3.0)


async def test_a_client_that_leaves_ends_it() -> None:
    with pytest.raises(ClientLeft):
        await received(RequestBodies(1.0), Client(part(b"a", more=True), LEFT))


async def test_a_slow_handler_is_no_slow_body(autojump_clock: MockClock) -> None:
    async with RequestBodies(3.0).received("a", scope("1"), Client(part(b"a")).receive, 4):
        await trio.sleep(10)


async def test_there_is_room_for_so_many_bytes(autojump_clock: MockClock) -> None:
    """As long as their requests are served; an address has a part of it."""
    bodies = RequestBodies(10.0)
    size = 1024 * 1024
    hold = trio.Event()

    async def serve(address: str) -> None:
        async with bodies.received(address, scope(), Client(part(b"x")).receive, size):
            await hold.wait()

    async def is_refused(address: str) -> bool:
        try:
            async with bodies.received(address, scope(), Client(part(b"x")).receive, size):
                return False
        except BodyRefused as refused:
            return refused.status == 503

    async with trio.open_nursery() as nursery:
        each, total = MAX_BYTES_PER_ADDRESS // size - 1, MAX_BYTES // size - 1
        for _ in range(each):
            nursery.start_soon(serve, "a")
        await wait_all_tasks_blocked()
        assert await is_refused("a")
        assert not await is_refused("b")
        for number in range(total - each):
            nursery.start_soon(serve, f"other {number}")
        await wait_all_tasks_blocked()
        assert await is_refused("b")
        hold.set()
    assert not await is_refused("a")
