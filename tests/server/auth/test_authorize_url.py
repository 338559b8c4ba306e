"""Asking a backend, when thousands of clients come back at once: it is asked little, and nobody gets in by that."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from relay.core.errors import Unverified
from relay.core.grants import Grant
from relay.server.auth.authorize_url import MAX_WAITING, AuthorizeUrl
from relay.server.auth.http_client import Answer

GRANT = Answer(200, msgspec.json.encode({"relay": {"watch": {"tasks": ["demo"]}}}))


class Backend:
    """Answers after a second, and notes how much it is asked."""

    def __init__(self, answer: Callable[[], Answer]) -> None:
        self.answer = answer
        self.requests = self.at_once = self.most_at_once = 0

    async def get(self, headers: Mapping[str, str] | None = None) -> Answer:
        self.requests += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(1)
            return self.answer()
        finally:
            self.at_once -= 1


def fail() -> Answer:
    raise Unverified("no answer")


async def crowd(backend: Backend, cookies: Callable[[int], str], count: int = 10_000) -> list[Any]:
    client: Any = backend
    authorize = AuthorizeUrl(client, concurrency=32, max_age=10, ttl=60, now=trio.current_time)
    outcomes: list[Any] = []

    async def connect(number: int) -> None:
        try:
            outcomes.append(await authorize.grant_of({"cookie": cookies(number)}))
        except Unverified as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(connect, number)
    return outcomes


async def test_a_crowd_of_strangers_is_asked_about_in_turn(autojump_clock: MockClock) -> None:
    backend = Backend(lambda: GRANT)
    outcomes = await crowd(backend, lambda number: f"session={number}")
    assert len(outcomes) == 10_000
    assert sum(isinstance(outcome, Grant) for outcome in outcomes) == backend.requests == MAX_WAITING
    assert backend.most_at_once == 32


async def test_one_session_is_asked_about_once(autojump_clock: MockClock) -> None:
    backend = Backend(lambda: GRANT)
    outcomes = await crowd(backend, lambda _: "session=1", MAX_WAITING)
    assert backend.requests == 1
    assert all(isinstance(outcome, Grant) for outcome in outcomes)


async def test_a_backend_that_is_down_is_not_asked_by_the_whole_crowd(autojump_clock: MockClock) -> None:
    backend = Backend(fail)
    outcomes = await crowd(backend, lambda number: f"session={number}")
    assert backend.requests <= 64, "those under way when the first one failed, and no more"
    assert all(isinstance(outcome, Unverified) for outcome in outcomes)


async def test_who_asked_and_left_does_not_leave_the_others_without_an_answer(autojump_clock: MockClock) -> None:
    backend: Any = Backend(lambda: GRANT)
    authorize = AuthorizeUrl(backend, concurrency=1, max_age=0, ttl=60, now=trio.current_time)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            nursery.start_soon(_granted, authorize)
            await authorize.grant_of({"cookie": "a"})


async def _granted(authorize: AuthorizeUrl) -> None:
    assert isinstance(await authorize.grant_of({"cookie": "a"}), Grant)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"relay": 7}', b"x"])
async def test_garbage_is_no_grant(body: bytes, autojump_clock: MockClock) -> None:
    outcomes = await crowd(Backend(lambda: Answer(200, body)), lambda _: "", 1)
    assert isinstance(outcomes[0], Unverified)
