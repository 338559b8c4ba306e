"""Fixtures of the sessions' tests."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.server.world import MakeWorld, World


@pytest.fixture
async def make_world(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeWorld]:
    """Makes a world with the settings given, on the mock clock; its clients hang up when the test is over."""
    assert isinstance(trio.lowlevel.current_clock(), MockClock), "the test must ask for a clock itself"
    for module in ("session", "session_commands", "session_output"):
        monkeypatch.setattr(f"relay.server.{module}.monotonic", trio.current_time)
    for module in ("session_access", "heartbeat"):
        monkeypatch.setattr(f"relay.server.{module}.time", trio.current_time)
    monkeypatch.setattr("relay.server.session_registry.monotonic", trio.current_time)
    monkeypatch.setattr("relay.server.heartbeat.monotonic", trio.current_time)
    worlds: list[World] = []

    def make(*, in_nursery: trio.Nursery | None = None, **settings: Any) -> World:
        worlds.append(World(in_nursery or nursery, **settings))
        return worlds[-1]

    yield make
    for world in worlds:
        for peer in world.peers:
            peer.hang_up()
