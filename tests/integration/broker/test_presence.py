"""Presence in a real Valkey: relays that die, and what becomes of it while Redis is away."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from relay_wire.publications import ScriptCall

from relay.broker import presence
from relay.broker.presence import Presence
from relay.broker.service import RedisBroker
from relay.core.errors import BrokerUnavailable
from relay.core.membership import Member
from tests.harness import RedisServer
from tests.integration.broker.durable import opened

CHANNEL = "task:t"


class Line:
    """The way of one relay to Redis, which can be cut."""

    def __init__(self, redis: RedisBroker) -> None:
        self._redis = redis
        self.is_cut = False
        self.attempted = trio.Event()
        #: Who was announced, and as what.
        self.announced: list[tuple[str, str]] = []

    async def run_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        self.attempted.set()
        if self.is_cut:
            raise BrokerUnavailable("the line is cut")
        for call in calls:
            if call.values and call.values[0] == "PUBLISH":
                for message in call.values[2:]:
                    self.announced.append(announcement(message))
        return list(await self._redis.run_calls(calls))


def announcement(message: bytes) -> tuple[str, str]:
    kind = next(kind for kind in ("join", "leave") if kind.encode() in message)
    (start,) = [message.index(b'{"client"')]
    return kind, msgspec.json.decode(message[start : message.index(b"}", start) + 1])["client"]


def member(client: str) -> Member:
    return Member(msgspec.json.encode({"client": client, "user": "u"}), announced=True)


class Relay:
    """What one relay knows."""

    def __init__(self, redis: RedisBroker, **options: Any) -> None:
        self.line = Line(redis)
        self.presence = Presence(self.line.run_calls, sharded=False, **options)

    def come(self, *clients: str) -> None:
        for client in clients:
            self.presence.add(CHANNEL, client, member(client))

    def leave(self, client: str) -> None:
        self.presence.remove(CHANNEL, client)

    async def seen(self) -> list[str]:
        return sorted((await self.presence.read(CHANNEL)).clients)

    async def sees(self, *clients: str) -> None:
        """Wait until it sees these and no others."""
        with trio.fail_after(30):
            while await self.seen() != list(clients):  # noqa: ASYNC110 - it changes in Redis
                await trio.sleep(0.01)


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.presence.run)
        yield
        nursery.cancel_scope.cancel()


async def test_the_clients_of_a_relay_that_has_died_are_forgotten(shared_redis: RedisServer) -> None:
    async with opened(shared_redis) as redis:
        dead, alive = (Relay(redis, ttl=0.5, confirm_interval=0.05) for _ in range(2))
        async with running(alive):
            async with running(dead):
                alive.come("a")
                dead.come("d")
                await alive.sees("a", "d")
            await alive.sees("a")
            assert alive.line.announced == [("join", "a")]  # confirming is not coming


async def test_who_comes_and_goes_while_redis_is_away(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "_RETRY_INTERVAL", 0.01)
    async with opened(shared_redis) as redis:
        relay = Relay(redis)
        async with running(relay):
            relay.come("stays", "goes")
            await relay.sees("goes", "stays")
            relay.line.is_cut = True
            with pytest.raises(BrokerUnavailable):
                await relay.seen()
            relay.leave("goes")
            relay.come("comes", "passes")
            for _ in range(3):
                relay.line.attempted = trio.Event()
                with trio.fail_after(30):
                    await relay.line.attempted.wait()
            relay.leave("passes")
            shared_redis.clear()  # it has lost everything
            relay.line.is_cut = False
            await relay.sees("comes", "stays")  # long before the next confirmation
            assert sorted(relay.line.announced[2:]) == [("join", "comes"), ("join", "passes"), ("leave", "passes")]


async def test_who_leaves_at_once_has_come_all_the_same(shared_redis: RedisServer) -> None:
    async with opened(shared_redis) as redis:
        relay = Relay(redis)
        async with running(relay):
            relay.come("a")
            relay.leave("a")
            relay.come("b")
            await relay.sees("b")
            assert sorted(relay.line.announced) == [("join", "a"), ("join", "b"), ("leave", "a")]
