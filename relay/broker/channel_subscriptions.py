"""The channels that this process is subscribed to in Redis, and the reads of their history.

`relay.core.channel_lifecycle` decides what is due for each channel; the tasks here do it. One task subscribes and unsubscribes
as the hub's listeners come and go. Another catches up with channels that Redis has confirmed: after a lost connection each is
read from the last position that was delivered, and what is live meanwhile waits in the hub. A third reads for clients. Reads
that are asked for in one turn of the event loop go to Redis together, and equal reads are one.
"""

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from time import monotonic

import structlog
import trio
from relay_wire import keys
from relay_wire.publications import Retention

from relay.broker import script_calls
from relay.broker.backoff import backoff
from relay.broker.contract import RunCalls
from relay.core.channel_lifecycle import ChannelEvent, ChannelLifecycles, ChannelState
from relay.core.errors import BrokerError, BrokerRefused, BrokerUnavailable
from relay.core.hub import Hub
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update

_log = structlog.get_logger("relay.channel_subscriptions")

#: Reads in one round trip to Redis: of states alone, and of history, which may be the whole limit each.
STATES_AT_ONCE = 256
HISTORIES_AT_ONCE = 16

#: Channels that are caught up with in one round trip.
_CATCH_UPS_AT_ONCE = 64

#: A read that waits while others are answered is given up after so many time-outs.
_TIMEOUT_FACTOR = 5

#: Seconds until a channel is read again that Redis has refused to read.
_RETRY_REFUSED = 2.0

#: Seconds between two log lines about messages that cannot be read.
_LOG_INTERVAL = 60.0

#: What `Position(...)` does, at half of its cost: there is one for each update.
_position = tuple.__new__

#: Bytes of one read of a history, give or take one update. What is longer is read in parts.
MAX_READ_BYTES = 128 * 1024


class _Read:
    """One read, and those that wait for it."""

    __slots__ = ("asked_at", "channel", "done", "is_own", "result", "since", "waiters")

    def __init__(self, channel: str, since: Position | None, *, is_own: bool = False) -> None:
        self.channel = channel
        self.since = since
        self.is_own = is_own  # the position is one that this relay has delivered, not a client's claim
        self.asked_at = monotonic()
        self.done = trio.Event()
        self.result: Snapshot | BrokerError | None = None
        self.waiters = 0

    def settle(self, result: Snapshot | BrokerError) -> None:
        """Give the result to all that wait."""
        self.result = result
        self.done.set()


class ChannelSubscriptions:
    """Keeps the hub's channels subscribed and caught up, and reads history for clients.

    Attributes:
        invalid_messages: Messages on Relay's own channels that could not be read.
    """

    def __init__(
        self,
        hub: Hub,
        run_calls: RunCalls,
        run_client_calls: RunCalls,
        subscribe: Callable[[list[str]], Awaitable[set[str]]],
        unsubscribe: Callable[[list[str]], Awaitable[None]],
        retention: Retention,
        timeout: float,
        on_flushed: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the channels of a hub; run `run` beside the subscription.

        Args:
            hub: Whose channels they are.
            run_calls: Runs scripts for the relay itself.
            run_client_calls: Runs scripts for clients, on connections of their own, so that these never delay the relay's.
            subscribe: Subscribes to Redis channels and returns those that Redis was asked for: those whose connection is up.
            unsubscribe: Unsubscribes from Redis channels.
            retention: The limits of what Redis keeps.
            timeout: Seconds within which Redis has to answer.
            on_flushed: Called when the updates of a turn were handed out.
        """
        self._hub = hub
        self._run_calls = run_calls
        self._run_client_calls = run_client_calls
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._retention = retention
        self._timeout = timeout
        self._on_flushed = on_flushed
        self._lifecycles = ChannelLifecycles[_Read]()
        self._channels: dict[bytes, str] = {}  # confirmed channels by their names in Redis
        self._refused_at = 0.0
        self._reported: set[str] = set()  # channels whose refusal was logged
        #: Reads that were not sent yet, by what they ask for; and those of them whose channels are live.
        self._unsent: dict[tuple[str, Position | None], _Read] = {}
        self._queued: dict[_Read, None] = {}
        self._answered_at = monotonic()
        self._read_asked = trio.Event()
        self._change_due = trio.Event()
        self._catch_up_due = trio.Event()
        self._read_due = trio.Event()
        self._logged_at = -math.inf
        self.invalid_messages = 0
        self.messages = 0

    # Called by the hub and the subscription; nothing here waits.

    def on_change(self, channel: str) -> None:
        """A channel got its first subscriber or lost its last."""
        is_wanted = channel in self._hub.channels
        self._apply(ChannelEvent.WANTED if is_wanted else ChannelEvent.UNWANTED, channel)
        self._change_due.set()

    def on_gap(self, channel: str) -> None:
        """A channel needs a snapshot."""
        self._apply(ChannelEvent.GAP, channel)

    def on_up(self) -> None:
        """There is a new subscription connection; nothing is subscribed on it yet."""
        self._change_due.set()

    def on_down(self, pubsub_channels: Collection[str]) -> None:
        """A subscription connection is gone, on which these were subscribed, or about to be."""
        channels = [keys.channel_of(name) for name in pubsub_channels]
        for channel in channels:
            self._apply(ChannelEvent.DISCONNECTED, channel)
        self._hub.on_disconnect(channels)

    def on_confirmed(self, pubsub_channel: str) -> None:
        """Redis has confirmed a subscription: nothing is missed from here on."""
        self._answered_at = monotonic()
        self._apply(ChannelEvent.CONFIRMED, keys.channel_of(pubsub_channel))

    def _apply(self, event: ChannelEvent, channel: str) -> None:
        state = self._lifecycles.on(event, channel)
        name = keys.pubsub_channel(channel).encode()
        if self._lifecycles.is_confirmed(channel):
            self._channels[name] = channel
        else:
            self._channels.pop(name, None)
        if state is ChannelState.BEHIND:
            self._catch_up_due.set()
        elif state is None:
            self._reported.discard(channel)

    def on_turn(self, begins: bool) -> None:
        """The messages of a turn are about to come, or have all come: hand out what they brought."""
        self._hub.is_in_turn = begins
        if not begins and self._hub.has_pending:
            self._hub.flush()
            self._on_flushed()

    def on_message(self, pubsub_channel: bytes, message: bytes) -> bool:
        """Take a message, as the publish script sends it. Return whether the turn has to end."""
        self.messages += 1
        channel = self._channels.get(pubsub_channel)
        if channel is None:
            return False  # it was left meanwhile
        header, _, data = message.partition(b"\n")
        try:
            epoch, offset, kind = header.decode().split(" ")
            position = None if epoch == "-" else _position(Position, (epoch, int(offset)))
        except ValueError:
            self._on_invalid(channel)
            return False
        self._hub.on_publication(Update(channel, kind, script_calls.utf8(data), monotonic(), position))
        return self._hub.is_full

    def _on_invalid(self, channel: str) -> None:
        self.invalid_messages += 1
        now = monotonic()
        if now - self._logged_at >= _LOG_INTERVAL:
            self._logged_at = now
            _log.warning("message skipped: not in Relay's format", channel=channel, skipped=self.invalid_messages)

    # Called by sessions.

    async def read(self, channel: str, since: Position | None) -> Snapshot:
        """Read the history or the state of a channel that has a subscriber, once what is live is received: nothing between the
        two is missed.

        Args:
            channel: The channel.
            since: The position after which history is wanted; None for the state.

        Returns:
            A snapshot. A long history comes in parts, see `Snapshot.is_partial`.

        Raises:
            BrokerUnavailable: Redis does not answer within the time-out, or within five while it answers others.
            BrokerRefused: Redis answers with an error.
        """
        key = (channel, since)
        read = self._unsent.get(key)
        if read is None:
            read = self._unsent[key] = _Read(channel, since)
            if not self._lifecycles.add_read(channel, read):
                self._queue(read)
            self._read_asked.set()
        read.waiters += 1
        try:
            await read.done.wait()
        finally:
            read.waiters -= 1
        if isinstance(read.result, BrokerError):
            raise read.result
        assert read.result is not None
        return read.result

    def _queue(self, read: _Read) -> None:
        self._queued[read] = None
        self._read_due.set()

    def _withdraw(self, read: _Read) -> None:
        """A read is sent or settled: who asks from here on asks anew."""
        self._queued.pop(read, None)
        key = (read.channel, read.since)
        if self._unsent.get(key) is read:
            del self._unsent[key]

    def _settle(self, read: _Read, result: Snapshot | BrokerError) -> None:
        self._withdraw(read)
        read.settle(result)

    # The tasks.

    async def run(self) -> None:
        """Subscribe, unsubscribe, catch up and read, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_changes)
            nursery.start_soon(self._run_catch_ups)
            nursery.start_soon(self._run_reads)
            nursery.start_soon(self._run_timeouts)

    async def _run_changes(self) -> None:
        while True:
            await self._change_due.wait()
            self._change_due = trio.Event()
            await self._subscribe_and_unsubscribe()

    async def _subscribe_and_unsubscribe(self) -> None:
        """Ask Redis for what is needed. If a connection breaks meanwhile, its channels are needed again when it is up."""
        lifecycles = self._lifecycles
        needed = lifecycles.in_state(ChannelState.NEEDED)
        left = lifecycles.in_state(ChannelState.LEAVING) + lifecycles.in_state(ChannelState.LEAVING_UNCONFIRMED)
        for channel in left:
            self._apply(ChannelEvent.UNSUBSCRIBE_SENT, channel)
            for read in lifecycles.take_reads(channel):
                self._settle(read, BrokerUnavailable("the channel was left"))
        lifecycles.on_all(ChannelEvent.SUBSCRIBE_SENT, needed)
        if needed:
            asked = await self._subscribe([keys.pubsub_channel(channel) for channel in needed])
            for channel in needed:
                if keys.pubsub_channel(channel) not in asked:
                    self._apply(ChannelEvent.DISCONNECTED, channel)
        if left:
            await self._unsubscribe([keys.pubsub_channel(channel) for channel in left])

    async def _run_catch_ups(self) -> None:
        attempt = 0
        while True:
            with trio.move_on_after(_RETRY_REFUSED if self._lifecycles.has(ChannelState.REFUSED) else math.inf):
                await self._catch_up_due.wait()
            self._catch_up_due = trio.Event()
            if monotonic() - self._refused_at >= _RETRY_REFUSED:
                self._lifecycles.on_all(ChannelEvent.RETRY, self._lifecycles.in_state(ChannelState.REFUSED))
            try:
                while self._lifecycles.has(ChannelState.BEHIND):
                    await self._catch_up()
                    attempt = 0
            except BrokerError as error:
                channels = len(self._lifecycles.in_state(ChannelState.BEHIND))
                delay = backoff(attempt)
                _log.warning("catching up failed", error=str(error), channels=channels, retry_in=round(delay, 3))
                await trio.sleep(delay)
                attempt += 1
                self._catch_up_due.set()

    async def _catch_up(self) -> None:
        """Read some of the channels that are behind. Raises BrokerUnavailable if any of them cannot be read now."""
        channels = self._lifecycles.in_state(ChannelState.BEHIND, _CATCH_UPS_AT_ONCE)
        reads: list[_Read] = []
        for channel in channels:
            self._apply(ChannelEvent.READ_SENT, channel)
            since = self._hub.position(channel)
            waiting = self._lifecycles.waiting_reads(channel) if since is None else []
            # A channel without a position needs no read of its own, unless for a state: its first client's says where it
            # stands.
            if waiting and (waiting[0].since is None or not self._hub.needs_snapshot(channel)):
                reads.append(waiting[0])
            else:
                reads.append(_Read(channel, since, is_own=True))
            self._withdraw(reads[-1])
        try:
            results = await self._read_all(self._run_calls, reads)
        except BrokerError:
            for channel in channels:
                self._apply(ChannelEvent.READ_FAILED, channel)
            raise
        failure: BrokerError | None = None
        for read, result in zip(reads, results, strict=True):
            if isinstance(result, BrokerRefused):
                self._refuse(read.channel, result)
            elif isinstance(result, BrokerError):
                self._apply(ChannelEvent.READ_FAILED, read.channel)
                failure = result
            else:
                self._on_caught_up(read, result)
        if failure is not None:
            raise failure

    def _on_caught_up(self, read: _Read, snapshot: Snapshot) -> None:
        channel = read.channel
        if self._lifecycles.state(channel) not in (ChannelState.CATCHING_UP, ChannelState.OUTDATED):
            return  # the connection broke, or the channel was left, while it was read
        self._hub.catch_up(channel, snapshot)
        self._apply(ChannelEvent.CAUGHT_UP, channel)
        if self._lifecycles.state(channel) is ChannelState.LIVE:
            self._reported.discard(channel)
            for waiting in self._lifecycles.take_reads(channel):
                if waiting is read:
                    self._settle(waiting, snapshot)
                else:
                    self._queue(waiting)

    def _refuse(self, channel: str, refusal: BrokerRefused) -> None:
        """One channel cannot be read: that must not delay the others."""
        if channel not in self._reported:
            self._reported.add(channel)
            _log.error("channel cannot be read", channel=channel, error=str(refusal), retry_in=_RETRY_REFUSED)
        if not self._lifecycles.has(ChannelState.REFUSED):
            self._refused_at = monotonic()
        self._apply(ChannelEvent.READ_REFUSED, channel)
        for read in self._lifecycles.take_reads(channel):
            self._settle(read, refusal)

    async def _run_reads(self) -> None:
        while True:
            await self._read_due.wait()
            await trio.lowlevel.checkpoint()  # reads that are asked for in this turn go along
            reads = self._next_reads()
            if not self._queued:
                self._read_due = trio.Event()
            if not reads:
                continue
            results: Sequence[Snapshot | BrokerError]
            try:
                results = await self._read_all(self._run_client_calls, reads)
            except BrokerError as error:
                results = [error] * len(reads)
            for read, result in zip(reads, results, strict=True):
                read.settle(result)

    def _next_reads(self) -> list[_Read]:
        """Take the reads of one round trip, in the order in which they were asked for."""
        reads: list[_Read] = []
        histories = 0
        for read in list(self._queued):
            if len(reads) >= STATES_AT_ONCE or histories >= HISTORIES_AT_ONCE:
                break
            self._withdraw(read)
            if read.waiters:  # else its clients have gone
                reads.append(read)
                histories += read.since is not None
        return reads

    async def _read_all(self, run_calls: RunCalls, reads: Sequence[_Read]) -> list[Snapshot | BrokerError]:
        retention = self._retention
        calls = [
            script_calls.read_call(read.channel, read.since, retention, MAX_READ_BYTES, is_ours=read.is_own)
            for read in reads
        ]
        answers = await run_calls(calls)
        self._answered_at = now = monotonic()
        return [
            answer if isinstance(answer, BrokerError) else script_calls.read_snapshot(read.channel, answer, now)
            for read, answer in zip(reads, answers, strict=True)
        ]

    async def _run_timeouts(self) -> None:
        """Give up reads that have waited too long. One look at all of them: a deadline for each would cost as much as the
        read."""
        while True:
            await self._read_asked.wait()
            await trio.sleep(self._timeout / 4)
            now = monotonic()
            factor = 1 if now - self._answered_at > self._timeout else _TIMEOUT_FACTOR
            before = now - self._timeout * factor
            too_late = BrokerUnavailable("Redis did not answer in time")
            for read in list(self._queued):
                if read.asked_at >= before:
                    break  # they are in order
                self._settle(read, too_late)
            for channel in self._lifecycles.channels_with_reads():
                for read in self._lifecycles.take_reads(channel):
                    if read.asked_at < before:
                        self._settle(read, too_late)
                    elif not self._lifecycles.add_read(channel, read):
                        self._queue(read)
            if not self._queued and not self._lifecycles.channels_with_reads():
                self._read_asked = trio.Event()
