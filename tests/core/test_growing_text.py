"""A text that grows, whatever happens on the way: late, slow and resuming clients have it whole, each piece once.

The machine is that of `test_subscription`: Redis, its connections, the hub, lifecycles and subscriptions, in any order of
events.
"""

import json
from typing import Any

from hypothesis import settings

from relay.core.batches import Batch, Format
from relay.core.subscription import Request
from relay.core.updates import Position
from tests.core.subscription_clients import PlainClient, PositionedClient
from tests.core.test_subscription import Interleavings
from tests.core.world import CHANNELS, NUMBERED, WHOLE, JsonObject


def applied(state: JsonObject, data: JsonObject) -> JsonObject:
    """What a client makes of an update."""
    return state | {
        name: state.get(name, "") + value["$append"] if isinstance(value, dict) else value
        for name, value in data.items()
    }


class ReadingClient(PositionedClient):
    """A client that resumes, and folds what it gets. It takes deltas, or wants whole values."""

    def __init__(self, format: Format, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.format = format
        self.state: JsonObject = {}

    def request(self) -> Request:
        return super().request()._replace(format=self.format)

    def offer(self, batch: Batch) -> None:
        for frame in batch.chunk:
            kind, _, position, data = json.loads(frame)
            if kind == "subscribed" and not data["recovered"]:
                self.state = {}
            elif kind == "reset":
                self.state = data
            elif kind == "update":
                assert self.format is NUMBERED or not any(isinstance(value, dict) for value in data.values())
                if self.position is not None and position is not None:
                    place = Position(*position)
                    assert place.epoch == self.position.epoch
                    assert place.offset > self.position.offset, "an update came twice"
                    assert self.format is WHOLE or place.offset == self.position.offset + 1, "an update is missing"
                self.state = applied(self.state, data)
            if kind == "subscribed" and data["recovered"]:
                continue
            if position is not None:
                self.position = None if kind == "subscribed" and data["state"] else Position(*position)
                self.is_early = False


class ReadingPlainClient(PlainClient):
    """A client without positions that takes deltas: what it is sent last is the whole text, or appended to it."""

    def offer(self, batch: Batch) -> None:
        for frame in batch.chunk:
            kind, _, _, data = json.loads(frame)
            self.state = data if kind == "reset" else applied(self.state, data)


class Texts(Interleavings):
    """The same machine, with updates that append."""

    def __init__(self) -> None:
        super().__init__()
        for line in self.lines.values():
            line.appends = True

    def make_clients(self) -> None:
        formats = zip((NUMBERED, NUMBERED, WHOLE), (CHANNELS[0], *CHANNELS[::-1]), strict=True)
        self.clients = [
            ReadingClient(format, self.hub, channel, self.lines[channel], self.cut_short) for format, channel in formats
        ]
        self.plain = [ReadingPlainClient(channel) for channel in CHANNELS]

    def calm(self) -> None:
        super().calm()
        for client in (*self.clients, *self.plain):
            assert isinstance(client, ReadingClient | ReadingPlainClient)
            is_following = client.connected if isinstance(client, ReadingClient) else client.following
            if is_following:
                assert client.state == self.lines[client.channel].state


TestTexts = Texts.TestCase
TestTexts.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
