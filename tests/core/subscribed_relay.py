"""Redis and the connection by which a relay is subscribed, as one machine without I/O, for tests that add clients.

The hub and the lifecycles of the channels are the real ones. Every step that takes time on a real network is a rule of its own,
so that anything may happen in between.
"""

from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from relay.core.channel_lifecycle import ChannelEvent, ChannelLifecycles, ChannelState
from relay.core.hub import Hub
from relay.core.recent_history import MAX_AGE
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from tests.core.subscription_clients import Read
from tests.core.world import CHANNELS, KEPT, Line, update_of


class SubscribedRelay(RuleBasedStateMachine):
    """Redis, the subscription connection, and what catches up on a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.withheld: set[str] = set()
        self.hub = Hub(
            lambda: None,
            self.on_change,
            self.on_change,
            self.on_gap,
            on_withheld=lambda name, _is_urgent: self.withheld.add(name),
        )
        self.lifecycles = ChannelLifecycles[Any]()
        self.lines = {channel: Line() for channel in CHANNELS}
        #: The highest `first_kept` of each epoch of a channel, which is what justifies a gap.
        self.cut_short = Counter[tuple[str, str]]()
        self.number = 0
        self.now = 0.0
        # The subscription connection.
        self.is_up = True
        self.wire: list[Update | str] = []  # messages, and confirmations by channel, on their way to the relay
        self.subscribed: set[str] = set()  # what Redis has of it
        self.catching_up: Read | None = None

    def on_change(self, channel: str) -> None:
        is_wanted = channel in self.hub.channels
        self.lifecycles.apply(ChannelEvent.WANTED if is_wanted else ChannelEvent.UNWANTED, channel)

    def on_gap(self, channel: str) -> None:
        self.lifecycles.apply(ChannelEvent.GAP, channel)

    @property
    def behind(self) -> list[str]:
        return self.lifecycles.in_state(ChannelState.BEHIND)

    # Redis.

    @rule(channel=st.sampled_from(CHANNELS), count=st.sampled_from([1, 1, 1, 2, KEPT + 2]))
    def publish(self, channel: str, count: int) -> None:
        line = self.lines[channel]
        for _ in range(count):
            self.number += 1
            position = line.publish(self.number)
            self.cut_short[channel, position.epoch] = line.first_kept
            if channel in self.subscribed:
                self.wire.append(update_of(channel, position, line.history[position]))

    @rule(channel=st.sampled_from(CHANNELS))
    def publish_unpersisted(self, channel: str) -> None:
        if channel in self.subscribed:
            self.wire.append(update_of(channel, None, {}))

    @rule()
    def lose_memory(self) -> None:
        for line in self.lines.values():
            line.lose()

    # The subscription connection.

    @precondition(lambda self: self.wire)
    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.wire))):
            self.receive(self.wire.pop(0))

    @precondition(lambda self: self.wire)
    @rule()
    def deliver_twice(self) -> None:
        first = self.wire.pop(0)
        self.receive(first)
        self.receive(first)

    def receive(self, item: Update | str) -> None:
        if isinstance(item, str):
            self.lifecycles.apply(ChannelEvent.CONFIRMED, item)
        elif self.lifecycles.is_confirmed(item.channel):
            self.hub.on_publication(item)

    @precondition(lambda self: self.is_up)
    @rule()
    def cut(self) -> None:
        self.is_up = False
        self.wire.clear()
        self.subscribed.clear()
        self.lifecycles.apply_all(ChannelEvent.DISCONNECTED, CHANNELS)
        self.hub.on_disconnect(list(self.hub.channels))

    @precondition(lambda self: not self.is_up)
    @rule()
    def reconnect(self) -> None:
        self.is_up = True

    @precondition(lambda self: self.is_up)
    @rule()
    def subscribe_and_unsubscribe(self) -> None:
        lifecycles = self.lifecycles
        for channel in lifecycles.in_state(ChannelState.NEEDED):
            lifecycles.apply(ChannelEvent.SUBSCRIBE_SENT, channel)
            self.subscribed.add(channel)
            self.wire.append(channel)
        for state in (ChannelState.LEAVING, ChannelState.LEAVING_UNCONFIRMED):
            for channel in lifecycles.in_state(state):
                lifecycles.apply(ChannelEvent.UNSUBSCRIBE_SENT, channel)
                self.subscribed.remove(channel)

    # Histories that were read a moment ago.

    def recent_history(self, channel: str, since: Position | None) -> Snapshot | None:
        """What a client gets without a read of its own."""
        if since is None or self.lifecycles.state(channel) is not ChannelState.LIVE:
            return None
        return self.hub.histories.find(channel, since, self.now)

    def on_history(self, channel: str, since: Position | None, snapshot: Snapshot | None) -> None:
        if since is not None and snapshot is not None:
            self.hub.histories.learn(channel, since, snapshot, self.now)

    @rule(seconds=st.sampled_from([0.5, 2 * MAX_AGE]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.hub.histories.expire(self.now)

    # Catching up, one read after the other.

    @precondition(lambda self: self.behind and self.catching_up is None)
    @rule()
    def begin_catching_up(self) -> None:
        (channel,) = self.lifecycles.in_state(ChannelState.BEHIND, 1)
        self.lifecycles.apply(ChannelEvent.READ_SENT, channel)
        self.catching_up = Read(channel, self.hub.position(channel))

    @precondition(lambda self: self.catching_up is not None and self.catching_up.snapshot is None)
    @rule(limit=st.sampled_from([1, 2, KEPT, KEPT]))
    def carry_out_catching_up(self, limit: int = KEPT) -> None:
        assert self.catching_up is not None
        channel, since, _ = self.catching_up
        self.catching_up = Read(channel, since, self.lines[channel].snapshot(channel, since, limit))

    @precondition(lambda self: self.catching_up is not None and self.catching_up.snapshot is not None)
    @rule()
    def end_catching_up(self) -> None:
        assert self.catching_up is not None
        (channel, since, snapshot), self.catching_up = self.catching_up, None
        assert snapshot is not None
        if self.lifecycles.state(channel) in (ChannelState.CATCHING_UP, ChannelState.OUTDATED):
            self.hub.catch_up(channel, snapshot)
            self.on_history(channel, since, snapshot)
            self.lifecycles.apply(ChannelEvent.CAUGHT_UP, channel)

    @precondition(lambda self: self.catching_up is not None)
    @rule(is_refused=st.booleans())
    def catching_up_fails(self, is_refused: bool) -> None:
        assert self.catching_up is not None
        event = ChannelEvent.READ_REFUSED if is_refused else ChannelEvent.READ_FAILED
        if self.lifecycles.state(self.catching_up.channel) in (ChannelState.CATCHING_UP, ChannelState.OUTDATED):
            self.lifecycles.apply(event, self.catching_up.channel)
        self.catching_up = None

    @rule()
    def retry_refused(self) -> None:
        self.lifecycles.apply_all(ChannelEvent.RETRY, self.lifecycles.in_state(ChannelState.REFUSED))
