"""Nothing is lost silently: every interleaving of live updates, history, resubscribing and faults.

The machine below is Redis, the subscription connection, the reads, and some clients, all without I/O. The hub, the lifecycles
of the channels and the subscriptions are the real ones. Every step that takes time on a real network is a step of its own here,
so that anything may happen in between.
"""

from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from relay.core import subscription as subscriptions
from relay.core.channel_lifecycle import ChannelState
from relay.core.client_subscriptions import SubscriptionSet
from relay.core.recovery import RecoveryBuffer
from relay.core.subscription import ReadHistory, Refuse, Send, State
from relay.core.updates import Position
from tests.core.subscribed_relay import SubscribedRelay
from tests.core.subscription_clients import PlainClient, PositionedClient, Read
from tests.core.world import CHANNELS, KEPT, PLAIN


class Interleavings(SubscribedRelay):
    """Redis, its connections and clients, with the real hub, lifecycles and subscriptions between them."""

    def __init__(self) -> None:
        super().__init__()
        self.small = (
            patch.object(subscriptions, "PAGE_UPDATES", 2),
            patch.object(RecoveryBuffer, "MAX_UPDATES", 4),
        )
        for each in self.small:
            each.start()
        self.clients: list[PositionedClient] = []
        self.plain: list[PlainClient] = []

    def make_clients(self) -> None:
        self.clients = [
            PositionedClient(self.hub, channel, self.lines[channel], self.cut_short)
            for channel in (CHANNELS[0], *CHANNELS)
        ]
        self.plain = [PlainClient(channel) for channel in CHANNELS]

    @initialize()
    def begin(self) -> None:
        self.make_clients()
        for index, client in enumerate(self.clients):
            self.publish(client.channel, 1)
            self.subscribe(index, "none")
        self.calm()

    # Clients that resume.

    @rule(index=st.integers(0, 2), position=st.sampled_from(["own", "own", "own", "none", "wrong"]))
    def subscribe(self, index: int, position: str) -> None:
        """For the first time, or again on the same connection, or on a new one: with the position that it has seen."""
        client = self.clients[index]
        self.leave(index)
        if position == "none":
            client.position = None
        elif position == "wrong":
            client.position = Position("never", 3)
        client.connected = True
        client.subscription = client.subscriptions.start(client.request())

    @rule(index=st.integers(0, 2))
    def leave(self, index: int) -> None:
        client = self.clients[index]
        client.subscriptions.end(client.channel)
        client.connected = client.is_early = False
        client.subscription = client.read = None

    @rule(index=st.integers(0, 2))
    def hang_up(self, index: int) -> None:
        """A set that is closed subscribes to nothing; the client comes back with another one."""
        client = self.clients[index]
        client.subscriptions.close()
        assert client.subscriptions.start(client.request()) is None
        if client.subscription is not None:
            assert client.subscription.next_effect() is None
        client.subscriptions = SubscriptionSet(self.hub, client)
        self.leave(index)

    @rule(index=st.integers(0, 2))
    def go_on(self, index: int) -> None:
        """The session performs the next effect."""
        client = self.clients[index]
        subscription = client.subscription
        if subscription is None or client.read is not None:
            return
        effect = subscription.next_effect()
        if isinstance(effect, ReadHistory):
            known = self.recent_history(client.channel, effect.since)
            if known is None:
                client.read = Read(client.channel, effect.since)
            else:
                subscription.on_history(known)
        elif isinstance(effect, Send):
            client.offer(effect.batch)
        elif isinstance(effect, Refuse):
            self.leave(index)
        elif subscription.state is State.WAITING:
            top = self.hub.position(client.channel)
            assert client.position is not None
            client.is_early = top is not None and top.epoch != client.position.epoch

    @rule(index=st.integers(0, 2), limit=st.sampled_from([1, 2, KEPT, KEPT]))
    def carry_out_reading(self, index: int, limit: int = KEPT) -> None:
        client = self.clients[index]
        is_live = self.lifecycles.state(client.channel) is ChannelState.LIVE
        if is_live and client.read is not None and client.read.snapshot is None:
            snapshot = self.lines[client.channel].snapshot(client.channel, client.read.since, limit)
            client.read = client.read._replace(snapshot=snapshot)

    @rule(index=st.integers(0, 2))
    def end_reading(self, index: int) -> None:
        client = self.clients[index]
        if client.read is None or client.read.snapshot is None:
            return
        (channel, since, snapshot), client.read = client.read, None
        assert client.subscription is not None
        assert snapshot is not None
        self.on_history(channel, since, snapshot)
        client.subscription.on_history(snapshot)

    @rule(index=st.integers(0, 2))
    def reading_fails(self, index: int) -> None:
        client = self.clients[index]
        if client.read is not None:
            client.read = None
            assert client.subscription is not None
            is_read_again = client.subscription.on_unavailable("down")
            self.go_on(index)
            assert is_read_again or client.subscription is None

    # Clients that know of no positions, while Redis is away: they get the state later.

    @rule(index=st.integers(0, 1))
    def subscribe_without_state(self, index: int) -> None:
        client = self.plain[index]
        if not client.following:
            client.following, client.state = True, {}
            self.hub.subscribe(client, client.channel, PLAIN, needs_snapshot=True)

    @rule(index=st.integers(0, 1))
    def leave_plain(self, index: int) -> None:
        client = self.plain[index]
        client.following = False
        self.hub.unsubscribe(client, client.channel, PLAIN)

    @rule()
    def flush(self) -> None:
        self.hub.flush()

    # Several steps at once, without which the machine would rarely come far.

    @rule()
    def bring_up(self) -> None:
        """The connection comes up, and all that is on its way arrives."""
        self.is_up = True
        self.subscribe_and_unsubscribe()
        while self.wire:
            self.receive(self.wire.pop(0))
        self.catch_up_all()

    @rule(index=st.integers(0, 2), limit=st.sampled_from([1, 2, KEPT]))
    def read_and_send(self, index: int, limit: int) -> None:
        self.go_on(index)
        self.carry_out_reading(index, limit)
        self.end_reading(index)
        self.go_on(index)

    @rule(index=st.integers(0, 2), missed=st.integers(0, KEPT + 1), limit=st.sampled_from([1, 2, KEPT]))
    def come_back(self, index: int, missed: int, limit: int) -> None:
        """A client was away while something was published, and has got a part of it."""
        channel = self.clients[index].channel
        self.leave(index)
        for _ in range(missed):
            self.publish(channel, 1)
        self.subscribe(index, "own")
        self.bring_up()
        self.read_and_send(index, limit)

    @rule(index=st.integers(0, 2), count=st.integers(1, 6))
    def publish_while_reading(self, index: int, count: int) -> None:
        """Updates come between a read and its answer."""
        self.go_on(index)
        self.carry_out_reading(index)
        self.publish(self.clients[index].channel, count)
        while self.wire:
            self.receive(self.wire.pop(0))
        self.end_reading(index)

    @rule(channel=st.sampled_from(CHANNELS), limit=st.sampled_from([1, 2]))
    def lose_messages(self, channel: str, limit: int) -> None:
        """A short interruption, and a snapshot that has a part of what was missed."""
        self.cut()
        self.publish(channel, 3)
        self.is_up = True
        self.subscribe_and_unsubscribe()
        while self.wire:
            self.receive(self.wire.pop(0))
        if self.behind and self.catching_up is None:
            self.begin_catching_up()
            self.carry_out_catching_up(limit)
            self.publish(channel, 1)
            self.end_catching_up()

    # When the faults are over.

    @rule()
    def read_withheld(self) -> None:
        """It is time to read what clients have as whole values."""
        while self.withheld:
            self.on_gap(self.withheld.pop())

    def catch_up_all(self) -> None:
        self.read_withheld()
        for _ in range(8 * len(CHANNELS)):
            if self.catching_up is None and self.behind:
                self.begin_catching_up()
            if self.catching_up is not None:
                if self.catching_up.snapshot is None:
                    self.carry_out_catching_up()
                self.end_catching_up()

    @rule()
    def calm(self) -> None:
        """Everybody comes to the same end, within a bounded number of steps."""
        for _ in range(8):
            self.is_up = True
            self.retry_refused()
            self.subscribe_and_unsubscribe()
            while self.wire:
                self.receive(self.wire.pop(0))
            self.catch_up_all()
            for index in range(len(self.clients)):
                for _ in range(2 * KEPT):
                    self.carry_out_reading(index)
                    self.end_reading(index)
                    self.go_on(index)
            self.hub.flush()
        assert not self.behind, "it goes on reading indefinitely"
        # One more update each: what was lost without a trace shows at the next, and a lost memory too.
        for channel in CHANNELS:
            self.publish(channel, 1)
        for _ in range(3):
            while self.wire:
                self.receive(self.wire.pop(0))
            self.catch_up_all()
        self.hub.flush()
        assert not self.behind
        for client in self.clients:
            if client.connected:
                assert client.subscription is not None
                assert client.subscription.state is State.LIVE
                assert client.position == self.lines[client.channel].top
        for plain in self.plain:
            if plain.following:
                assert self.lines[plain.channel].state.items() <= plain.state.items()

    def teardown(self) -> None:
        if self.clients:
            self.calm()
        for index in range(len(self.clients)):
            self.leave(index)
        for index in range(len(self.plain)):
            self.leave_plain(index)
        for each in self.small:
            each.stop()
        assert not self.hub.channels
        assert self.hub.subscriptions == 0


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
