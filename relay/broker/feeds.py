"""The feeds: which channels of Redis this process hears with positions, and how they are attached, read, and caught up.

One task attaches and detaches channels as the hub's listeners come and go, another catches up with those that are attached
anew: after the subscription broke each channel is read from the last offset that was passed on; what is live meanwhile waits in
the hub. A channel that nobody followed before is read from where its first client was: one read serves both. Reads that are
asked for in one turn of the loop go to Redis together.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from itertools import islice
from time import monotonic

import structlog
import trio
from relay_wire import keys
from relay_wire.publications import Retention

from relay.broker import script_calls
from relay.broker.backoff import backoff
from relay.broker.contract import RunCalls
from relay.core.errors import BrokerError, BrokerRefused, BrokerUnavailable
from relay.core.hub import Hub
from relay.core.recovery import Snapshot
from relay.core.updates import Position

_log = structlog.get_logger("relay.feeds")

#: Reads in one round trip to Redis: of the state alone, and of what came after a position, which may be the whole history.
READS_AT_ONCE = 1024
_HISTORIES_AT_ONCE = 32

#: A read that waits while others are answered is given up after so many deadlines.
_PATIENCE = 5

#: Seconds until a channel is read again that Redis has refused to read.
_REFUSED_AGAIN = 2.0


class _Read:
    """A read that somebody waits for."""

    __slots__ = ("asked", "channel", "done", "is_ours", "result", "since")

    def __init__(self, channel: str, since: Position | None, *, is_ours: bool = False) -> None:
        self.channel = channel
        self.since = since
        self.is_ours = is_ours  # the position is one that this relay has passed on, not a client's word
        self.asked = monotonic()
        self.done = trio.Event()
        self.result: Snapshot | BrokerError | None = None

    def settle(self, result: Snapshot | BrokerError) -> None:
        """Whoever waits gets this."""
        self.result = result
        self.done.set()


class Feeds:
    """Keeps the hub's channels attached.

    subscribe, unsubscribe: have the subscription hear Redis channels, or not; the first says which were asked for: those
                            whose connection is up
    """

    def __init__(
        self,
        hub: Hub,
        run_calls: RunCalls,
        run_client_calls: RunCalls,
        subscribe: Callable[[list[str]], Awaitable[set[str]]],
        unsubscribe: Callable[[list[str]], Awaitable[None]],
        retention: Retention,
        deadline: float,
        max_read_bytes: int,
    ) -> None:
        self._hub = hub
        self._run_calls = run_calls
        self._run_client_calls = run_client_calls
        self._max_read_bytes = max_read_bytes
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._retention = retention
        self._deadline = deadline
        self._changed: dict[str, None] = {}
        self._attached: set[str] = set()  # Redis was asked for them on the present connection
        self._confirmed: set[str] = set()
        self._channels: dict[bytes, str] = {}  # those confirmed, by the names of their feeds
        self._behind: dict[str, None] = {}
        self._refused: dict[str, None] = {}  # of those behind, what Redis does not let us read
        self._refused_at = 0.0
        self._current: set[str] = set()  # those that are caught up
        self._early: dict[str, list[_Read]] = {}  # reads of the others
        self._reads: deque[_Read] = deque()
        self._answered = monotonic()
        self._asked = trio.Event()
        self._to_attach = trio.Event()
        self._to_catch_up = trio.Event()
        self._to_read = trio.Event()
        self.bad_messages = 0
        #: Hands out what the hub has gathered, at the end of a turn.
        self.hand_out: Callable[[], None] = hub.flush

    # Called by the hub and the listener; nothing here waits.

    def on_change(self, channel: str) -> None:
        """A channel got its first follower or lost its last."""
        self._current.discard(channel)  # whoever joins now waits for what it is now
        self._changed[channel] = None
        self._to_attach.set()

    def on_behind(self, channel: str) -> None:
        """A channel has a hole."""
        self._behind[channel] = None
        self._to_catch_up.set()

    def on_up(self) -> None:
        """There is a new subscription connection; nothing is attached on it yet."""
        self._changed.update(dict.fromkeys(self._hub.channels))
        self._to_attach.set()

    def on_down(self, feed_names: Collection[str]) -> None:
        """A subscription connection is gone, on which these were heard, or about to be."""
        channels = [keys.channel_of(name) for name in feed_names]
        self._attached.difference_update(channels)
        self._unconfirm(channels)
        self._hub.cut_off(channels)
        self._current.difference_update(channels)
        for channel in channels:
            self._behind.pop(channel, None)
            self._refused.pop(channel, None)

    def on_confirmed(self, feed_name: str) -> None:
        """Redis has confirmed a subscription: from here on everything is heard."""
        self._answered = monotonic()
        channel = keys.channel_of(feed_name)
        if channel in self._attached:  # else it was left meanwhile
            self._confirmed.add(channel)
            self._channels[feed_name.encode()] = channel
            self.on_behind(channel)

    def _unconfirm(self, channels: Iterable[str]) -> None:
        for channel in channels:
            self._confirmed.discard(channel)
            self._channels.pop(keys.pubsub_channel(channel).encode(), None)

    def on_turn(self, begins: bool) -> None:
        """The messages of a turn are about to come, or have all come."""
        self._hub.is_in_turn = begins
        if not begins and self._hub.has_pending:
            self.hand_out()

    def on_message(self, feed_name: bytes, message: bytes) -> bool:
        """A message on a feed; returns whether the turn has to end."""
        channel = self._channels.get(feed_name)
        if channel is None:
            return False  # it was left meanwhile
        try:
            update = script_calls.live_message(channel, message, monotonic())
        except ValueError:
            self.bad_messages += 1
            _log.warning("message on a feed skipped: not one of Relay's", channel=feed_name.decode(errors="replace"))
            return False
        self._hub.hear(update)
        return self._hub.is_full

    # Called by sessions.

    async def read(self, channel: str, since: Position | None) -> Snapshot:
        """Look at a channel that is being joined, once everything live is heard: nothing between the two is missed.

        Raises BrokerUnavailable or BrokerRefused, within the deadline; where many wait and Redis answers others meanwhile,
        within five.
        """
        read = _Read(channel, since)
        self._asked.set()
        if channel in self._current:
            self._ask(read)
        else:
            self._early.setdefault(channel, []).append(read)
        await read.done.wait()
        if isinstance(read.result, BrokerError):
            raise read.result
        assert read.result is not None
        return read.result

    def _ask(self, read: _Read) -> None:
        self._reads.append(read)
        self._to_read.set()

    # The tasks.

    async def run(self) -> None:
        """Attach, detach, read and catch up, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._attach_for_ever)
            nursery.start_soon(self._catch_up_for_ever)
            nursery.start_soon(self._read_for_ever)
            nursery.start_soon(self._give_up_overdue)

    async def _attach_for_ever(self) -> None:
        while True:
            await self._to_attach.wait()
            self._to_attach = trio.Event()
            await self._attach_and_detach()

    async def _attach_and_detach(self) -> None:
        """Where a connection breaks meanwhile, all that it is to hear is attached when the next one is up."""
        changed, self._changed = self._changed, {}
        watched = self._hub.channels
        attach = [channel for channel in changed if channel in watched and channel not in self._attached]
        detach = [channel for channel in changed if channel not in watched and channel in self._attached]
        for channel in changed:
            if channel not in watched:
                self._behind.pop(channel, None)
                self._refused.pop(channel, None)
                self._early.pop(channel, None)  # of clients that have gone
            elif channel in self._attached and channel in self._confirmed:
                self.on_behind(channel)  # it was left and joined again before it was detached
        self._attached.update(attach)
        self._attached.difference_update(detach)
        self._unconfirm(detach)
        if attach:
            asked = await self._subscribe([keys.pubsub_channel(channel) for channel in attach])
            self._attached.difference_update(channel for channel in attach if keys.pubsub_channel(channel) not in asked)
        if detach:
            await self._unsubscribe([keys.pubsub_channel(channel) for channel in detach])

    async def _catch_up_for_ever(self) -> None:
        attempt = 0
        while True:
            with trio.move_on_after(_REFUSED_AGAIN if self._refused else math.inf):
                await self._to_catch_up.wait()
            self._to_catch_up = trio.Event()
            if self._refused and monotonic() - self._refused_at >= _REFUSED_AGAIN:
                self._behind.update(self._refused)
                self._refused.clear()
            try:
                while self._behind:
                    await self._catch_up()
                    attempt = 0
            except BrokerError as error:
                _log.warning("catching up failed, trying again", error=str(error), channels=len(self._behind))
                await trio.sleep(backoff(attempt))
                attempt += 1
                self._to_catch_up.set()

    async def _catch_up(self) -> None:
        """Catch up with some of the channels that are behind. Raises BrokerUnavailable when one or all cannot be read now."""
        channels = list(islice(self._behind, _HISTORIES_AT_ONCE))
        reads: list[_Read] = []
        for channel in channels:
            del self._behind[channel]
            since = self._hub.position(channel)
            early = self._early.get(channel)
            # What nobody followed before need not be read for us: where it stands is what its first client is told as well.
            reads.append(early[0] if since is None and early else _Read(channel, since, is_ours=True))
        try:
            snapshots = await self._read_all(self._run_calls, reads)
        except BrokerError:
            self._behind.update(dict.fromkeys(channels))
            raise
        failed: BrokerError | None = None
        for read, snapshot in zip(reads, snapshots, strict=True):
            channel = read.channel
            if isinstance(snapshot, BrokerRefused):
                self._refuse(channel, snapshot)
                continue
            if isinstance(snapshot, BrokerError):
                self._behind[channel] = None
                failed = snapshot
                continue
            if channel not in self._confirmed:
                continue  # the connection broke while this was read
            self._hub.catch_up(channel, snapshot)
            if channel not in self._behind:
                self._current.add(channel)
                for early_read in self._early.pop(channel, ()):
                    if early_read is read:
                        read.settle(snapshot)
                    else:
                        self._ask(early_read)
        if failed is not None:
            raise failed

    def _refuse(self, channel: str, refusal: BrokerRefused) -> None:
        """One channel cannot be read, for something else lies under its keys perhaps: that must not hold up the others."""
        _log.error("channel cannot be read", channel=channel, error=str(refusal), again_in=_REFUSED_AGAIN)
        for read in self._early.pop(channel, ()):
            read.settle(refusal)
        if not self._refused:
            self._refused_at = monotonic()
        self._refused[channel] = None

    async def _read_for_ever(self) -> None:
        while True:
            await self._to_read.wait()
            await trio.lowlevel.checkpoint()  # whoever asks in this turn goes along
            reads = self._some_reads()
            if not self._reads:
                self._to_read = trio.Event()
            results: Sequence[Snapshot | BrokerError]
            try:
                results = await self._read_all(self._run_client_calls, reads)
            except BrokerError as error:
                results = [error] * len(reads)
            for read, result in zip(reads, results, strict=True):
                read.settle(result)

    def _some_reads(self) -> list[_Read]:
        reads: list[_Read] = []
        histories = 0
        while self._reads and len(reads) < READS_AT_ONCE and histories < _HISTORIES_AT_ONCE:
            reads.append(self._reads.popleft())
            histories += reads[-1].since is not None
        return reads

    async def _read_all(self, run_calls: RunCalls, reads: Sequence[_Read]) -> list[Snapshot | BrokerError]:
        calls = [
            script_calls.read_call(
                read.channel, read.since, self._retention, self._max_read_bytes, is_ours=read.is_ours
            )
            for read in reads
        ]
        answers = await run_calls(calls)
        self._answered = now = monotonic()
        return [
            answer if isinstance(answer, BrokerError) else script_calls.read_snapshot(read.channel, answer, now)
            for read, answer in zip(reads, answers, strict=True)
        ]

    async def _give_up_overdue(self) -> None:
        """Tell those who have waited too long. One look at all of them: a deadline for each would cost as much as the read."""
        while True:
            await self._asked.wait()
            await trio.sleep(self._deadline / 4)
            now = monotonic()
            since = now - self._deadline * (1 if now - self._answered > self._deadline else _PATIENCE)
            overdue = BrokerUnavailable("Redis did not answer in time")
            while self._reads and self._reads[0].asked < since:
                self._reads.popleft().settle(overdue)
            for channel, reads in list(self._early.items()):
                for read in [read for read in reads if read.asked < since]:
                    reads.remove(read)
                    read.settle(overdue)
                if not reads:
                    del self._early[channel]
            if not self._reads and not self._early:
                self._asked = trio.Event()
