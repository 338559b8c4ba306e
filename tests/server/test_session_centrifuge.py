"""Clients of the Centrifuge protocol that connect and resume: without a task where nothing has to be awaited."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from relay.core.channels import ChannelPatterns
from relay.core.client_channels import ClientChannels, Namespace
from relay.core.closecodes import Close
from relay.core.errors import Unauthenticated
from relay.core.grants import EVERYTHING, Grant
from relay.core.membership import Member
from relay.core.recovery import Snapshot
from relay.core.shared_updates import SharedUpdates
from relay.core.updates import Position, Update
from relay.protocols.centrifuge import CentrifugeProtocol
from relay.protocols.centrifuge_client import CentrifugeServer
from relay.protocols.centrifuge_json import JsonCodec
from relay.server.auth.authenticator import FindGrant, OpenAuthenticator
from tests.server.world import MakeWorld, World, settled, value

CHANNEL = "task:t"
CONNECT = {"id": 1, "connect": {}}
RESUME = {"id": 2, "subscribe": {"channel": CHANNEL, "recover": True, "epoch": "e", "offset": 1}}


class ByToken(OpenAuthenticator):
    """The token is the subject; "wrong" does not hold, and "later" takes an await."""

    def connection_entry(self, token: str) -> Grant | Unauthenticated | FindGrant:
        if token == "wrong":
            return Unauthenticated("invalid", "wrong", Close.INVALID_TOKEN)
        grant = msgspec.structs.replace(EVERYTHING, subject=token)
        if token != "later":
            return grant

        async def find() -> Grant:
            await trio.lowlevel.checkpoint()
            return grant

        return find


class Parked:
    """A client that begins without a task."""

    def __init__(self, world: World, *, presence: bool = False) -> None:
        channels = ClientChannels(ChannelPatterns(), [Namespace("task", presence=presence)])
        protocol = CentrifugeProtocol(CentrifugeServer(channels, 25.0, "Relay", 100), JsonCodec())
        session, self.peer, sock = world.session(protocol=protocol)
        session.register()
        world.watch.add(sock.fileno(), session)
        session.begin(sock.fileno(), is_drained=True)

    async def ask(self, *messages: Any) -> Any:
        self.peer.send(*messages)
        return await self.peer.json()


def update(offset: int) -> Update:
    return Update(CHANNEL, "task_update", b'{"n":%d}' % offset, 0.0, Position("e", offset))


@pytest.fixture
def world(autojump_clock: MockClock, make_world: MakeWorld) -> World:
    """A channel whose history up to 3 was read for another client a moment ago."""
    world = make_world(max_clients_per_subject=1)
    world.context = replace(world.context, authenticator=ByToken())
    world.hub.pin(CHANNEL)
    world.hub.catch_up(CHANNEL, Snapshot(Position("e", 3), [], None))
    missed = SharedUpdates(update(offset) for offset in (1, 2, 3))
    world.hub.histories.learn(CHANNEL, Position("e", 0), Snapshot(Position("e", 3), missed, None), 0.0)
    return world


@pytest.fixture
def tasks(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The tasks that sessions have had."""
    started: list[Any] = []
    start = world.sessions.start

    def start_noted(run: Any) -> None:
        started.append(run)
        start(run)

    monkeypatch.setattr(world.sessions, "start", start_noted)
    return started


@pytest.mark.parametrize("connect", [{}, {"token": "anne"}])
async def test_a_client_connects_and_resumes_without_a_task(
    autojump_clock: MockClock, connect: dict[str, str], world: World, tasks: list[Any]
) -> None:
    client = Parked(world)
    answer = await client.ask({"id": 1, "connect": connect})
    assert answer["connect"]["subs"] == {}
    answer = await client.ask(RESUME)
    assert [each["offset"] for each in answer["subscribe"]["publications"]] == [2, 3]
    world.hub.on_publication(update(4))
    world.hub.flush()
    assert (await client.peer.json())["push"]["pub"]["offset"] == 4
    assert tasks == []


async def test_it_is_present_without_a_task(
    autojump_clock: MockClock, world: World, tasks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    present: list[str] = []

    def note(channel: str, _client: str, _member: Member) -> None:
        present.append(channel)

    monkeypatch.setattr(world.context.services.presence, "add", note)
    client = Parked(world, presence=True)
    await client.ask(CONNECT)
    await client.ask(RESUME)
    await settled()
    assert present == [CHANNEL]
    assert tasks == []


async def test_what_takes_an_await_has_a_task_and_then_what_came_behind_it(
    autojump_clock: MockClock, world: World, tasks: list[Any]
) -> None:
    client = Parked(world)
    answer = await client.ask({"id": 1, "connect": {"token": "later"}}, RESUME)
    assert answer["id"] == 1
    answer = await client.peer.json()
    assert [each["offset"] for each in answer["subscribe"]["publications"]] == [2, 3]
    assert len(tasks) == 1


async def test_a_token_that_does_not_hold_ends_the_connection(autojump_clock: MockClock, world: World) -> None:
    client = Parked(world)
    client.peer.send({"id": 1, "connect": {"token": "wrong"}}, RESUME)
    messages, close = await client.peer.rest()
    assert close is not None
    assert (messages, close.code) == ([], 3500)


async def test_a_user_with_too_many_clients_gets_no_answer_but_the_close(
    autojump_clock: MockClock, world: World
) -> None:
    anne = {"id": 1, "connect": {"token": "anne"}}
    await Parked(world).ask(anne)
    second = Parked(world)
    second.peer.send(anne, RESUME)
    messages, close = await second.peer.rest()
    assert close is not None
    assert (messages, close.code) == ([], 3013)


async def test_a_subscription_that_cannot_be_read_is_counted_and_logged_now_and_then(
    autojump_clock: MockClock, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its client gets a temporary error, which says nothing of the cause."""
    client = Parked(world)
    await client.ask(CONNECT)
    for number in (1, 2, 3):
        other = {"channel": f"task:{number}", "recover": True, "epoch": "e", "offset": 1}
        answer = await client.ask({"id": number, "subscribe": other})
        assert answer["error"] == {"code": 100, "message": "internal server error", "temporary": True}
    assert value(world.metrics.recoveries, "unavailable") == 3
    assert capsys.readouterr().out.count("subscriptions refused for now") == 1
