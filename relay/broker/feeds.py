"""The feeds: which channels of Redis this process hears with positions, and how they are attached, read, and caught up.

One task attaches and detaches channels as the hub's listeners come and go. After the subscription broke each channel is
attached again and read from the last offset that was passed on; what is live meanwhile waits in the hub. Reads that are
asked for in one turn of the loop go to Redis together.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from time import monotonic
from typing import Any

import structlog
import trio
from relay_client import keys
from relay_client.durable import Retention

from relay.broker import store
from relay.broker.connections import Script
from relay.broker.listener import backoff
from relay.core.errors import BrokerError, BrokerUnavailable
from relay.core.hub import Hub
from relay.core.recovery import Snapshot
from relay.core.updates import Position

_log = structlog.get_logger("relay.feeds")

#: Reads in one round trip to Redis.
READS_AT_ONCE = 128

#: Runs several calls of a script at once: KEYS and ARGV of each in, answers out, an exception in place of a failed one's.
RunScript = Callable[[Script, Sequence[tuple[list[str], list[Any]]]], Awaitable[list[Any]]]


class _Read:
    """A read that somebody waits for."""

    __slots__ = ("channel", "done", "result", "since")

    def __init__(self, channel: str, since: Position | None) -> None:
        self.channel = channel
        self.since = since
        self.done = trio.Event()
        self.result: Snapshot | BrokerError | None = None


class Feeds:
    """Keeps the hub's channels attached.

    subscribe, unsubscribe: have the subscription hear Redis channels, or not; the first says which were asked for: those
                            whose connection is up
    """

    def __init__(
        self,
        hub: Hub,
        run_script: RunScript,
        subscribe: Callable[[list[str]], Awaitable[set[str]]],
        unsubscribe: Callable[[list[str]], Awaitable[None]],
        retention: Retention,
        deadline: float,
    ) -> None:
        self._hub = hub
        self._run_script = run_script
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._retention = retention
        self._deadline = deadline
        self._changed: dict[str, None] = {}
        self._attached: set[str] = set()  # Redis was asked for them on the present connection
        self._confirmed: set[str] = set()
        self._channels: dict[bytes, str] = {}  # those confirmed, by the names of their feeds
        self._behind: dict[str, None] = {}
        self._caught_up: dict[str, trio.Event] = {}
        self._reads: list[_Read] = []
        self._work = trio.Event()
        self._reads_waiting = trio.Event()
        self.bad_messages = 0

    # Called by the hub and the listener; nothing here waits.

    def on_change(self, channel: str) -> None:
        """A channel got its first follower or lost its last."""
        if self._caught_up.get(channel, trio.Event()).is_set():
            self._caught_up[channel] = trio.Event()  # whoever joins now waits for what it is now
        self._changed[channel] = None
        self._work.set()

    def on_behind(self, channel: str) -> None:
        """A channel has a hole."""
        self._behind[channel] = None
        self._work.set()

    def on_up(self) -> None:
        """There is a new subscription connection; nothing is attached on it yet."""
        self._changed.update(dict.fromkeys(self._hub.channels))
        self._work.set()

    def on_down(self, feed_names: Collection[str]) -> None:
        """A subscription connection is gone, on which these were heard, or about to be."""
        channels = [keys.channel_of(name) for name in feed_names]
        self._attached.difference_update(channels)
        self._unconfirm(channels)
        self._hub.cut_off(channels)
        for channel in channels:
            self._behind.pop(channel, None)
            if channel in self._caught_up and self._caught_up[channel].is_set():
                self._caught_up[channel] = trio.Event()

    def on_confirmed(self, feed_name: str) -> None:
        """Redis has confirmed a subscription: from here on everything is heard."""
        channel = keys.channel_of(feed_name)
        self._confirmed.add(channel)
        self._channels[feed_name.encode()] = channel
        if channel in self._attached:
            self.on_behind(channel)

    def _unconfirm(self, channels: Iterable[str]) -> None:
        for channel in channels:
            self._confirmed.discard(channel)
            self._channels.pop(keys.feed(channel).encode(), None)

    def hear(self, feed_name: bytes, message: bytes) -> None:
        """A message on a feed."""
        channel = self._channels.get(feed_name)
        if channel is None:
            return  # it was left meanwhile
        try:
            update = store.live_message(channel, message, monotonic())
        except ValueError:
            self.bad_messages += 1
            _log.warning("message on a feed skipped: not one of Relay's", channel=feed_name.decode(errors="replace"))
            return
        self._hub.hear(update)

    # Called by sessions.

    async def read(self, channel: str, since: Position | None) -> Snapshot:
        """Look at a channel that is being joined, once everything live is heard: nothing between the two is missed.

        Raises BrokerUnavailable or BrokerRefused, within the deadline.
        """
        with trio.move_on_after(self._deadline):
            caught_up = self._caught_up.setdefault(channel, trio.Event())
            await caught_up.wait()
            return await self._read(channel, since)
        raise BrokerUnavailable("Redis did not answer in time")

    async def _read(self, channel: str, since: Position | None) -> Snapshot:
        read = _Read(channel, since)
        self._reads.append(read)
        self._reads_waiting.set()
        await read.done.wait()
        if isinstance(read.result, BrokerError):
            raise read.result
        assert read.result is not None
        return read.result

    # The two tasks.

    async def run(self) -> None:
        """Attach, detach, read and catch up, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_reads)
            attempt = 0
            while True:
                await self._work.wait()
                self._work = trio.Event()
                try:
                    await self._attach_and_detach()
                    await self._catch_up()
                except BrokerError as error:
                    _log.warning("catching up failed, trying again", error=str(error), channels=len(self._behind))
                    await trio.sleep(backoff(attempt))
                    attempt += 1
                    self._work.set()
                else:
                    attempt = 0

    async def _attach_and_detach(self) -> None:
        changed, self._changed = self._changed, {}
        watched = self._hub.channels
        attach = [channel for channel in changed if channel in watched and channel not in self._attached]
        detach = [channel for channel in changed if channel not in watched and channel in self._attached]
        for channel in changed:
            if channel not in watched:
                self._behind.pop(channel, None)
                self._caught_up.pop(channel, None)
            elif channel in self._attached and channel in self._confirmed:
                self._behind[channel] = None  # it was left and joined again before it was detached
        self._attached.update(attach)
        self._attached.difference_update(detach)
        self._unconfirm(detach)
        try:
            if attach:
                asked = await self._subscribe([keys.feed(channel) for channel in attach])
                # The others are attached when their connection comes up.
                self._attached.difference_update(channel for channel in attach if keys.feed(channel) not in asked)
            if detach:
                await self._unsubscribe([keys.feed(channel) for channel in detach])
        except BrokerError:
            # Where the connection lives on, they must be asked for again.
            self._changed.update(changed)
            self._attached.difference_update(attach)
            self._unconfirm(attach)
            self._attached.update(detach)
            raise

    async def _catch_up(self) -> None:
        while self._behind:
            channels = list(self._behind)[:READS_AT_ONCE]
            for channel in channels:
                del self._behind[channel]
            since = [self._hub.position(channel) for channel in channels]
            try:
                snapshots = await self._read_all(list(zip(channels, since, strict=True)), is_ours=True)
            except BrokerError:
                self._behind.update(dict.fromkeys(channels))
                raise
            failed: BrokerError | None = None
            for channel, snapshot in zip(channels, snapshots, strict=True):
                if isinstance(snapshot, BrokerError):
                    self._behind[channel] = None
                    failed = snapshot
                    continue
                if channel not in self._confirmed:
                    continue  # the connection broke while this was read
                self._hub.catch_up(channel, snapshot)
                if channel not in self._behind:
                    self._caught_up.setdefault(channel, trio.Event()).set()
            if failed is not None:
                raise failed

    async def _run_reads(self) -> None:
        while True:
            await self._reads_waiting.wait()
            await trio.lowlevel.checkpoint()  # whoever asks in this turn goes along
            reads, self._reads = self._reads[:READS_AT_ONCE], self._reads[READS_AT_ONCE:]
            if not self._reads:
                self._reads_waiting = trio.Event()
            results: Sequence[Snapshot | BrokerError]
            try:
                results = await self._read_all([(read.channel, read.since) for read in reads])
            except BrokerError as error:
                results = [error] * len(reads)
            for read, result in zip(reads, results, strict=True):
                read.result = result
                read.done.set()

    async def _read_all(
        self, reads: Sequence[tuple[str, Position | None]], *, is_ours: bool = False
    ) -> list[Snapshot | BrokerError]:
        calls = [
            store.read_arguments(channel, since, self._retention.log_updates, self._retention, is_ours=is_ours)
            for channel, since in reads
        ]
        answers = await self._run_script(store.READ_SCRIPT, calls)
        now = monotonic()
        return [
            answer if isinstance(answer, BrokerError) else store.snapshot(channel, answer, now)
            for (channel, _), answer in zip(reads, answers, strict=True)
        ]
