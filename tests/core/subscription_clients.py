"""Clients that check what they get, for the interleavings of `test_subscription`."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from relay.core.batches import Batch
from relay.core.client_subscriptions import SubscriptionSet
from relay.core.hub import Hub
from relay.core.recovery import Snapshot, SubscribeResult
from relay.core.subscription import Request, Subscription
from relay.core.updates import Position
from tests.core.world import NUMBERED, JsonObject, Line


class Read(NamedTuple):
    """A read of a channel under way: not yet carried out, or its answer on the way back."""

    channel: str
    since: Position | None
    snapshot: Snapshot | None = None


class PositionedClient:
    """A client that resumes. It checks every message as it comes.

    Args:
        hub: Where it subscribes.
        channel: To what.
        line: The channel in Redis.
        cut_short: The highest `first_kept` of each epoch of a channel, which is what justifies a gap.
    """

    def __init__(self, hub: Hub, channel: str, line: Line, cut_short: Counter[tuple[str, str]]) -> None:
        self.channel = channel
        self.line = line
        self.cut_short = cut_short
        self.position: Position | None = None
        self.connected = False
        self.subscriptions = SubscriptionSet(hub, self)
        self.subscription: Subscription | None = None
        self.read: Read | None = None
        #: It resumed in a new epoch before the sequence noticed that the old one ended, and gets the reset with the others.
        self.is_early = False

    def request(self) -> Request:
        return Request(self.channel, NUMBERED, self.answer, self.position, requires_position=True)

    def answer(self, result: SubscribeResult | None) -> Iterable[bytes]:
        assert result is not None
        assert (result.recovered is None) == (self.position is None)
        data = {"recovered": result.recovered, "state": result.has_state}
        return [json.dumps(["subscribed", self.channel, result.position, data]).encode()]

    def offer(self, batch: Batch) -> None:
        for frame in batch.chunk:
            kind, channel, position, data = json.loads(frame)
            assert channel == self.channel
            assert self.connected
            if kind == "subscribed":
                if not data["recovered"]:
                    self.position = None if data["state"] else Position(*position)
            elif kind == "reset":
                self.jump(Position(*position), data)
            elif position is not None:
                self.follow(Position(*position), data)

    def jump(self, position: Position, state: JsonObject) -> None:
        """Told that updates were lost: only when they are, and never backwards."""
        line, seen = self.line, self.position
        assert seen is not None
        if position.epoch == seen.epoch:
            assert position.offset >= seen.offset
            is_cut_short = self.cut_short[self.channel, seen.epoch] > seen.offset + 1
            assert is_cut_short or self.is_early, "told of a gap, but Redis had everything"
        else:
            assert position.epoch > seen.epoch
        assert line.history.get(position, {}).items() <= state.items() or position.offset == 0
        self.position = position
        self.is_early = False

    def follow(self, position: Position, data: JsonObject) -> None:
        if self.position is None:  # the state
            assert self.line.history[position].items() <= data.items()
        else:
            assert position == (self.position.epoch, self.position.offset + 1), f"{self.position} then {position}"
            assert self.line.history[position] == data
        self.position = position


class PlainClient:
    """A client without positions: it lays what comes over what it has."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.state: JsonObject = {}
        self.following = False

    def offer(self, batch: Batch) -> None:
        for frame in batch.chunk:
            _, channel, _, data = json.loads(frame)
            assert channel == self.channel
            assert self.following
            for name, value in data.items():
                assert value >= self.state.get(name, 0), "an old value came after a newer one"
            self.state.update(data)
