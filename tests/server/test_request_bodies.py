"""Bodies are received within a size, a time and a number, and then handed on whole."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.server.request_bodies import MAX_BODIES, MAX_PER_ADDRESS, BodyRefused, ClientLeft, RequestBodies

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


async def test_a_body_is_handed_on_whole() -> None:
    client = Client(part(b"ab", more=True), part(b"", more=True), part(b"cd"), LEFT)
    receive = await RequestBodies(1.0).receive("a", scope("4"), client.receive, 4)
    assert await receive() == part(b"abcd")
    assert await receive() == LEFT


@pytest.mark.parametrize(
    ("length", "messages"), [("5", []), (None, [part(b"abc", more=True), part(b"de")]), ("junk", [part(b"abcde")])]
)
async def test_a_long_body_is_refused(length: str | None, messages: list[dict[str, Any]]) -> None:
    with pytest.raises(BodyRefused) as refused:
        await RequestBodies(1.0).receive("a", scope(length), Client(*messages).receive, 4)
    assert (refused.value.status, refused.value.code) == (413, "body_too_large")


async def test_a_slow_body_is_given_up(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    with pytest.raises(BodyRefused) as refused:
        await RequestBodies(3.0).receive("a", scope(), Client(part(b"a", more=True)).receive, 4)
    assert (refused.value.status, refused.value.code) == (408, "body_timeout")
    assert trio.current_time() - started == pytest.approx(3.0)


async def test_a_client_that_leaves_ends_it() -> None:
    with pytest.raises(ClientLeft):
        await RequestBodies(1.0).receive("a", scope(), Client(part(b"a", more=True), LEFT).receive, 4)


async def test_few_are_received_at_a_time(autojump_clock: MockClock) -> None:
    bodies = RequestBodies(10.0)

    async def wait(address: str) -> None:
        with pytest.raises(BodyRefused) as refused:
            await bodies.receive(address, scope(), Client().receive, 4)
        assert refused.value.status == 408

    async def is_refused(address: str) -> bool:
        try:
            await bodies.receive(address, scope(), Client(part(b"")).receive, 4)
        except BodyRefused:
            return True
        return False

    async with trio.open_nursery() as nursery:
        for _ in range(MAX_PER_ADDRESS):
            nursery.start_soon(wait, "a")
        await wait_all_tasks_blocked()
        assert await is_refused("a")
        assert not await is_refused("b")
        for number in range(MAX_BODIES - MAX_PER_ADDRESS):
            nursery.start_soon(wait, f"other {number}")
        await wait_all_tasks_blocked()
        assert await is_refused("b")
    assert not await is_refused("a")
