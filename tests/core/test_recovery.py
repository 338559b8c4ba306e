"""Nothing is lost silently: every interleaving of live, history, resubscribe and fault, and folding.

The machine below is Redis, the subscription connection, the reads, and some clients, all without I/O: every step that takes
time on a real network is a step of its own here, so that anything may happen in between.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from relay_wire import keys
from relay_wire.publications import Retention, ScriptCall
from trio.testing import MockClock

from relay.broker.feeds import Feeds
from relay.core import taskstate
from relay.core.errors import BrokerRefused
from relay.core.hub import Hub
from relay.core.outbox import Batch, Format, Framing, Message, folded
from relay.core.recovery import Feed, Joining, Reset, Snapshot
from relay.core.updates import Position, Update

CHANNELS = ("task:a", "task:b")
#: Updates that Redis keeps of a channel, in the model.
KEPT = 6

JsonObject = dict[str, Any]


def joined(frames: Iterable[Any]) -> Any:
    return tuple(frames)


LINES = Framing(lambda payload: payload, joined)


class Numbered:
    """Says everything: what it is, where it stands, and the data."""

    stateful = False

    def encode(self, update: Update) -> bytes:
        return json.dumps(["update", update.channel, update.position, json.loads(update.data)]).encode()

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        data = json.loads(snapshot.state.data) if snapshot.state else {}
        return [json.dumps(["reset", channel, snapshot.top, data]).encode()]


NUMBERED = Format(Numbered(), LINES)
#: The same for clients that know of no positions; a format of its own.
PLAIN = Format(Numbered(), LINES)


@dataclass
class Line:
    """A channel as Redis keeps it."""

    epoch: int = 0
    entries: list[JsonObject] = field(default_factory=list)  # all of this epoch
    first_kept: int = 1
    state: JsonObject = field(default_factory=dict)
    #: Of all epochs: what was published at a position.
    history: dict[tuple[str, int], JsonObject] = field(default_factory=dict)

    @property
    def top(self) -> Position:
        return Position(f"e{self.epoch:06}", len(self.entries))

    def publish(self, number: int) -> Position:
        data = {f"k{number % 3}": number}
        self.entries.append(data)
        self.state.update(data)
        self.first_kept = max(self.first_kept, len(self.entries) - KEPT + 1)
        self.history[self.top] = data
        return self.top

    def lose(self) -> None:
        self.epoch += 1
        self.entries, self.state, self.first_kept = [], {}, 1

    def snapshot(self, channel: str, since: Position | None) -> Snapshot:
        entries = None
        kept = since is not None and since.epoch == self.top.epoch and self.first_kept - 1 <= since.offset
        if since is not None and kept and since.offset <= self.top.offset:
            entries = [
                update_of(channel, Position(since.epoch, offset), self.entries[offset - 1])
                for offset in range(since.offset + 1, self.top.offset + 1)
            ]
        state = update_of(channel, self.top, self.state) if self.state else None
        return Snapshot(self.top, entries, state)


def update_of(channel: str, position: Position | None, data: JsonObject) -> Update:
    return Update(channel, "task_update", json.dumps(data).encode(), 0.0, position)


class Read(NamedTuple):
    """A read of a channel under way: not yet carried out, or its answer on the way back."""

    channel: str
    since: Position | None
    snapshot: Snapshot | None = None


class PositionedClient:
    """One that resumes. It checks every message as it comes."""

    def __init__(self, world: "Interleavings", channel: str) -> None:
        self.world = world
        self.channel = channel
        self.position: Position | None = None
        self.connected = False
        self.joining: Joining | None = None
        self.read: Read | None = None
        self.settled = False
        #: It has joined a new epoch before the feed has noticed that the old one ended, and is told with the others.
        self.is_early = False

    def offer(self, batch: Batch) -> None:
        for frame in batch.chunk:
            kind, channel, position, data = json.loads(frame)
            assert channel == self.channel
            assert self.connected
            if kind == "reset":
                self.jump(Position(*position), data)
            elif position is not None:
                self.follow(Position(*position), data)

    def jump(self, position: Position, state: JsonObject) -> None:
        """Told that the line is broken: only when it is, and never backwards."""
        line, seen = self.world.lines[self.channel], self.position
        assert seen is not None
        if position.epoch == seen.epoch:
            assert position.offset >= seen.offset
            is_cut_short = self.world.cut_short[self.channel] > seen.offset + 1
            assert is_cut_short or self.is_early, "told of a gap, but Redis had everything"
        else:
            assert position.epoch > seen.epoch
        assert line.history.get(position, {}).items() <= state.items() or position.offset == 0
        self.position = position
        self.is_early = False

    def follow(self, position: Position, data: JsonObject) -> None:
        assert self.position is not None
        assert position == (self.position.epoch, self.position.offset + 1), f"{self.position} then {position}"
        assert self.world.lines[self.channel].history[position] == data
        self.position = position


class PlainClient:
    """One of today's: it lays what comes over what it has."""

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


class Interleavings(RuleBasedStateMachine):
    """Redis, its connections and clients, with the real hub between them."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub(lambda: None, self.on_change, self.on_change, self.on_behind)
        self.lines = {channel: Line() for channel in CHANNELS}
        #: The highest `first_kept` in the present epoch, which is what justifies a gap.
        self.cut_short = dict.fromkeys(CHANNELS, 1)
        self.number = 0
        # The subscription connection.
        self.is_up = True
        self.wire: list[Update | str] = []  # messages, and confirmations by channel, on their way to the relay
        self.subscribed: set[str] = set()  # what Redis has of it
        # As in relay.broker.feeds.
        self.changed: dict[str, None] = {}
        self.attached: set[str] = set()
        self.confirmed: set[str] = set()
        self.behind: dict[str, None] = {}
        self.caught_up: set[str] = set()
        self.catching_up: Read | None = None
        self.clients: list[PositionedClient] = []
        self.plain: list[PlainClient] = []

    @initialize()
    def begin(self) -> None:
        self.clients = [PositionedClient(self, channel) for channel in (*CHANNELS, *CHANNELS, CHANNELS[0])]
        self.plain = [PlainClient(channel) for channel in CHANNELS]

    def on_change(self, channel: str) -> None:
        self.changed[channel] = None
        self.caught_up.discard(channel)

    def on_behind(self, channel: str) -> None:
        self.behind[channel] = None

    # Redis.

    @rule(channel=st.sampled_from(CHANNELS), count=st.sampled_from([1, 1, 1, 2, KEPT + 2]))
    def publish(self, channel: str, count: int) -> None:
        line = self.lines[channel]
        for _ in range(count):
            self.number += 1
            position = line.publish(self.number)
            self.cut_short[channel] = max(self.cut_short[channel], line.first_kept)
            if channel in self.subscribed:
                self.wire.append(update_of(channel, position, line.history[position]))

    @rule(channel=st.sampled_from(CHANNELS))
    def publish_unrecorded(self, channel: str) -> None:
        if channel in self.subscribed:
            self.wire.append(update_of(channel, None, {}))

    @rule()
    def lose_memory(self) -> None:
        for channel, line in self.lines.items():
            line.lose()
            self.cut_short[channel] = 1

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
        if isinstance(item, Update):
            self.hub.hear(item)
            return
        self.confirmed.add(item)
        if item in self.attached:
            self.behind[item] = None

    @precondition(lambda self: self.is_up)
    @rule()
    def cut(self) -> None:
        self.is_up = False
        self.wire.clear()
        self.subscribed.clear()
        self.attached.clear()
        self.confirmed.clear()
        self.behind.clear()
        self.caught_up.clear()
        self.hub.cut_off(list(self.hub.channels))

    @precondition(lambda self: not self.is_up)
    @rule()
    def reconnect(self) -> None:
        self.is_up = True
        self.changed.update(dict.fromkeys(self.hub.channels))

    @precondition(lambda self: self.is_up and self.changed)
    @rule()
    def attach_and_detach(self) -> None:
        changed, self.changed = self.changed, {}
        watched = self.hub.channels
        for channel in changed:
            if channel not in watched:
                self.behind.pop(channel, None)
                self.caught_up.discard(channel)
                if channel in self.attached:
                    self.attached.remove(channel)
                    self.confirmed.discard(channel)
                    self.subscribed.remove(channel)
            elif channel not in self.attached:
                self.attached.add(channel)
                self.subscribed.add(channel)
                self.wire.append(channel)
            elif channel in self.confirmed:
                self.behind[channel] = None

    # Catching up, one read after the other.

    @precondition(lambda self: self.behind and self.catching_up is None and self.is_up)
    @rule()
    def begin_catching_up(self) -> None:
        channel = next(iter(self.behind))
        del self.behind[channel]
        self.catching_up = Read(channel, self.hub.position(channel))

    @precondition(lambda self: self.catching_up is not None and self.catching_up.snapshot is None)
    @rule()
    def carry_out_catching_up(self) -> None:
        assert self.catching_up is not None
        channel, since, _ = self.catching_up
        self.catching_up = Read(channel, since, self.lines[channel].snapshot(channel, since))

    @precondition(lambda self: self.catching_up is not None and self.catching_up.snapshot is not None)
    @rule()
    def end_catching_up(self) -> None:
        assert self.catching_up is not None
        (channel, _, snapshot), self.catching_up = self.catching_up, None
        assert snapshot is not None
        if channel in self.confirmed:
            self.hub.catch_up(channel, snapshot)
            if channel not in self.behind:
                self.caught_up.add(channel)

    @precondition(lambda self: self.catching_up is not None)
    @rule()
    def catching_up_fails(self) -> None:
        assert self.catching_up is not None
        self.behind[self.catching_up.channel] = None
        self.catching_up = None

    # Clients that resume.

    @rule(index=st.integers(0, 4), position=st.sampled_from(["own", "own", "own", "none", "wrong"]))
    def subscribe(self, index: int, position: str) -> None:
        """For the first time, or anew on the same connection, or on a new one: with the position that it has seen."""
        client = self.clients[index]
        self.leave(index)
        if position == "none":
            client.position = None
        elif position == "wrong":
            client.position = Position("never", 3)
        client.connected = True
        client.joining = Joining(client.position)
        joining = client.joining
        self.hub.join(client.channel, joining, lambda: self.settle(client, joining))
        joining.begin()

    @rule(index=st.integers(0, 4))
    def leave(self, index: int) -> None:
        client = self.clients[index]
        if client.joining is not None:
            self.hub.leave(client.channel, client.joining)
        if client.settled:
            self.hub.unsubscribe(client, client.channel, NUMBERED)
        client.connected = client.settled = False
        client.joining = client.read = None

    def settle(self, client: PositionedClient, joining: Joining) -> None:
        if client.joining is not joining:
            return
        client.joining = None
        rest = joining.rest()
        if rest:
            client.offer(Batch(tuple(NUMBERED.message(update).frame for update in rest), len(rest), 0))
        client.settled = True
        self.hub.settle(client, client.channel, joining, NUMBERED)

    @rule(index=st.integers(0, 4))
    def begin_reading(self, index: int) -> None:
        client = self.clients[index]
        joining = client.joining
        if joining is None or client.read or joining.is_welcomed or client.channel not in self.caught_up:
            return
        client.read = Read(client.channel, joining.since)

    @rule(index=st.integers(0, 4))
    def carry_out_reading(self, index: int) -> None:
        client = self.clients[index]
        if client.read is not None and client.read.snapshot is None:
            snapshot = self.lines[client.channel].snapshot(client.channel, client.read.since)
            client.read = client.read._replace(snapshot=snapshot)

    @rule(index=st.integers(0, 4))
    def end_reading(self, index: int) -> None:
        client = self.clients[index]
        if client.read is None or client.read.snapshot is None or client.joining is None:
            return
        snapshot, client.read = client.read.snapshot, None
        joining = client.joining
        if joining.is_stale:
            joining.begin()
            return
        welcome = joining.welcome(snapshot)
        assert (welcome.recovered is None) == (client.position is None)
        if welcome.recovered:
            for update in welcome.updates:
                assert update.position is not None
                client.follow(update.position, json.loads(update.data))
            assert client.position == welcome.position
        else:
            client.position = welcome.position
        known = self.hub.position(client.channel)
        client.is_early = known is not None and known.epoch != welcome.position.epoch
        if joining.is_ready_at(self.hub.position(client.channel)):
            self.settle(client, joining)

    # Clients that know of no positions, while Redis is away: they get the state later.

    @rule(index=st.integers(0, 1))
    def subscribe_blind(self, index: int) -> None:
        client = self.plain[index]
        if not client.following:
            client.following, client.state = True, {}
            self.hub.subscribe(client, client.channel, PLAIN, blind=True)

    @rule(index=st.integers(0, 1))
    def leave_blind(self, index: int) -> None:
        client = self.plain[index]
        client.following = False
        self.hub.unsubscribe(client, client.channel, PLAIN)

    @rule()
    def flush(self) -> None:
        self.hub.flush()

    # When the faults are over.

    @rule()
    def calm(self) -> None:
        """Everybody comes to the same end, within a bounded number of steps."""
        for _ in range(8):
            if not self.is_up:
                self.reconnect()
            self.attach_and_detach()
            self.deliver(len(self.wire))
            while self.behind or self.catching_up:
                if self.catching_up is None:
                    self.begin_catching_up()
                if self.catching_up is not None and self.catching_up.snapshot is None:
                    self.carry_out_catching_up()
                self.end_catching_up()
                if len(self.behind) == len(CHANNELS):
                    break
            for index in range(len(self.clients)):
                self.begin_reading(index)
                self.carry_out_reading(index)
                self.end_reading(index)
            self.hub.flush()
        assert not self.behind, "it goes on reading for ever"
        # One more update each: what was lost without a trace shows at the next, and a lost memory too.
        for channel in CHANNELS:
            self.publish(channel, 1)
        for _ in range(3):
            self.deliver(len(self.wire))
            for _ in range(2 * len(CHANNELS)):
                if self.behind:
                    self.begin_catching_up()
                    self.carry_out_catching_up()
                    self.end_catching_up()
        self.hub.flush()
        assert not self.behind
        for client in self.clients:
            if client.connected:
                assert client.settled
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
            self.leave_blind(index)
        assert not self.hub.channels
        assert self.hub.subscriptions == 0


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# Single steps of a feed, which the machine would rarely meet.


def updates(epoch: str, *offsets: int) -> list[Update]:
    return [update_of("task:t", Position(epoch, offset), {"n": offset}) for offset in offsets]


def live_feed(epoch: str, offset: int) -> Feed:
    feed = Feed()
    feed.catch_up(Snapshot(Position(epoch, offset), None, None))
    return feed


def test_a_late_message_of_a_lost_epoch_does_not_hold_the_feed_up_for_ever() -> None:
    feed = live_feed("old", 5)
    feed.cut_off()
    new = Snapshot(Position("new", 1), None, None)
    assert feed.catch_up(new) == [Reset(new)]
    assert feed.hear(*updates("old", 6)) is None
    assert not feed.is_live
    assert feed.hear(*updates("new", 2)) is None
    assert feed.catch_up(Snapshot(Position("new", 1), [], None)) == updates("new", 2)
    assert feed.is_live


def test_catching_up_with_a_feed_that_is_live_brings_nothing_twice() -> None:
    feed = live_feed("e", 5)
    first, second = updates("e", 6, 7)
    assert feed.hear(first) is first
    # Read before both, and after the first:
    assert feed.catch_up(Snapshot(Position("e", 5), [], None)) == []
    assert feed.catch_up(Snapshot(Position("e", 6), [first], None)) == []
    assert feed.last == ("e", 6)
    assert feed.hear(second) is second
    # Even where the log was cut short meanwhile.
    assert feed.catch_up(Snapshot(Position("e", 7), None, None)) == []
    assert (feed.is_live, feed.last) == (True, ("e", 7))


def test_more_than_can_be_held_back_is_read_again() -> None:
    feed = Feed()
    everything = updates("e", *range(1, 3 * Feed.MAX_HELD))
    for update in everything:
        assert feed.hear(update) is None
    feed.catch_up(Snapshot(Position("e", 0), None, None))
    assert not feed.is_live
    assert feed.catch_up(Snapshot(Position("e", len(everything)), everything, None)) == everything
    assert feed.is_live


def test_more_than_can_be_gathered_while_joining_is_read_again() -> None:
    joining = Joining(None)
    joining.begin()
    seen = []
    for update in updates("e", *range(1, Joining.MAX_GATHERED + 2)):
        seen.append(joining.is_stale)
        joining.live(update)
    seen.append(joining.is_stale)
    joining.begin()
    seen.append(joining.is_stale)
    assert seen == [False] * (Joining.MAX_GATHERED + 1) + [True, False]
    joining.welcome(Snapshot(Position("e", 1), None, None))
    assert joining.rest() == []


# Folding.

TASKS = ("task:a", "task:b")
partial = st.dictionaries(st.sampled_from("xyz"), st.integers(0, 99), max_size=3)
statuses = st.sampled_from([None, None, None, "in_progress", "completed", "failed", "stalled"])


class Published(NamedTuple):
    channel: str
    kind: str
    data: JsonObject


@st.composite
def published(draw: Callable[..., Any]) -> Published:
    channel = draw(st.sampled_from((*TASKS, "general")))
    data = draw(partial)
    status = draw(statuses)
    if status is not None:
        data["status"] = status
    kind = "general_update" if channel == "general" else "task_update"
    return Published(channel, kind, data)


def final_states(messages: Iterable[Message]) -> dict[str, JsonObject]:
    states: dict[str, JsonObject] = {}
    for message in messages:
        update = message.update
        if update is not None and update.type == "task_update":
            states.setdefault(update.channel, {}).update(json.loads(update.data))
    return states


@settings(max_examples=300)
@given(st.lists(published(), max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_folding_keeps_states_positions_and_ends(script: list[Published], words_at: list[int]) -> None:
    offsets = dict.fromkeys((*TASKS, "general"), 0)
    messages: list[Message] = []
    for place, (channel, kind, data) in enumerate(script):
        offsets[channel] += 1
        position = Position("e", offsets[channel])
        messages.append(NUMBERED.message(Update(channel, kind, json.dumps(data).encode(), float(place), position)))
        if place in words_at:
            messages.append(NUMBERED.payload(b'["word", %d]' % place))
    result = folded(messages)

    assert final_states(result) == final_states(messages)
    for message in result:
        if message.update is not None:  # the frame says what the update is
            frame_position, frame_data = json.loads(message.frame)[2:]
            assert frame_data == json.loads(message.update.data)
            assert (frame_position and Position(*frame_position)) == message.update.position
    for channel in offsets:
        before = [message.update for message in messages if message.update and message.update.channel == channel]
        after = [message.update for message in result if message.update and message.update.channel == channel]
        positions = [update.position for update in after if update.position is not None]
        assert positions == sorted(set(positions))
        if channel == "general":  # no task: nothing is folded
            assert after == before
            continue
        if before:
            assert after[-1].position == before[-1].position
        ends = [update for update in before if taskstate.is_terminal(update.data)]
        assert [update for update in after if taskstate.is_terminal(update.data)] == ends
        assert len(after) <= 2 * len(ends) + 1 + len([message for message in messages if message.update is None])
    # What is no update keeps its words and their order.
    words = [message.frame for message in messages if message.update is None]
    assert [message.frame for message in result if message.update is None] == words


@given(st.lists(published(), min_size=1, max_size=20), st.integers(0, 20))
def test_a_position_covers_all_that_was_folded_into_it(script: list[Published], stop: int) -> None:
    """A client that goes away in the middle of what was folded, and resumes from what it has seen, misses nothing."""
    messages: list[Message] = []
    for offset, (_, _, data) in enumerate(script, 1):
        update = Update("task:a", "task_update", json.dumps(data).encode(), 0.0, Position("e", offset))
        messages.append(NUMBERED.message(update))
    seen = folded(messages)[:stop]
    last = next(
        (message.update.position.offset for message in reversed(seen) if message.update and message.update.position), 0
    )
    resumed = [*seen, *messages[last:]]
    assert final_states(resumed) == final_states(messages)


def test_what_was_not_recorded_does_not_take_the_position_of_what_it_is_folded_with() -> None:
    recorded = NUMBERED.message(update_of("task:a", Position("e", 7), {"x": 1}))
    unrecorded = NUMBERED.message(update_of("task:a", None, {"y": 1}))
    positions = [message.update.position for message in folded([recorded, unrecorded]) if message.update]
    assert Position("e", 7) in positions


# The feeds, whose reads and subscriptions take their time.


class SlowRedis:
    """Answers reads; at each, one more update has been published that nobody hears."""

    def __init__(self) -> None:
        self.top = 0
        self.refused: set[str] = set()
        self.hub = Hub(lambda: None, self.on_change, self.on_change, self.on_behind)
        self.feeds = Feeds(
            self.hub,
            self.run_calls,
            self.run_calls,
            self.subscribe,
            self.unsubscribe,
            RETENTION,
            deadline=5.0,
            max_read_bytes=1 << 20,
        )

    def on_change(self, channel: str) -> None:
        self.feeds.on_change(channel)

    def on_behind(self, channel: str) -> None:
        self.feeds.on_behind(channel)

    async def subscribe(self, feed_names: list[str]) -> set[str]:
        await trio.sleep(0.01)
        for name in feed_names:
            self.feeds.on_confirmed(name)
        return set(feed_names)

    async def unsubscribe(self, feed_names: list[str]) -> None:
        await trio.sleep(0.01)

    async def run_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        self.top += 1
        answers: list[Any] = []
        for _, names, arguments in calls:
            if any(name in names for name in self.refused):
                answers.append(BrokerRefused("no memory"))
            else:
                since = int(arguments[1])
                flat = [item for offset in range(since + 1, self.top + 1) for item in (b"%d" % offset, b"x", b"{}")]
                answers.append([b"e", self.top, flat if arguments[0] else None, []])
        await trio.sleep(0.01)
        return answers


RETENTION = Retention(1000, 3600, 7200, 3600, 3600)


async def test_whoever_joins_a_channel_that_was_just_left_misses_nothing(autojump_clock: MockClock) -> None:
    redis = SlowRedis()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(redis.feeds.run)
        redis.feeds.on_up()
        for pause in (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05):
            for _ in range(3):
                joining = Joining(None)
                redis.hub.join("task:t", joining, lambda: None)
                joining.begin()
                snapshot = await redis.feeds.read("task:t", None)
                position = redis.hub.position("task:t")
                # What the feed has passed on before the past was read is in what was read.
                assert position is not None
                assert position <= snapshot.top
                redis.hub.leave("task:t", joining)
                await trio.sleep(pause)
        nursery.cancel_scope.cancel()


async def test_a_channel_that_cannot_be_read_holds_up_no_other(autojump_clock: MockClock) -> None:
    redis = SlowRedis()
    redis.refused.add(keys.meta("task:bad"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(redis.feeds.run)
        redis.feeds.on_up()
        for channel in ("task:bad", "task:good", "task:better"):
            redis.hub.join(channel, Joining(None), lambda: None)
        with trio.fail_after(0.5):
            for channel in ("task:good", "task:better"):
                await redis.feeds.read(channel, None)
        redis.refused.clear()
        await redis.feeds.read("task:bad", None)
        nursery.cancel_scope.cancel()
