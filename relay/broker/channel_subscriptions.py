"""The channels that this process is subscribed to in Redis.

`relay.core.channel_lifecycle` decides what is due for each channel; the tasks here do it. One task subscribes and unsubscribes
as the hub's subscribers come and go. Another catches up with channels that Redis has confirmed: after a lost connection each is
read from the last position that was delivered, and what is live meanwhile waits in the hub. `relay.broker.history_reads` reads.
"""

import math
from collections.abc import Awaitable, Callable, Collection
from time import monotonic

import structlog
import trio
from relay_wire import keys
from relay_wire.channels import FAMILY_UPDATE, TASK_DELTA, TASK_UPDATE
from relay_wire.creation import owner_of
from relay_wire.publications import Retention
from relay_wire.trace_context import TRACE, sampled

from relay.broker import script_calls
from relay.broker.backoff import backoff
from relay.broker.contract import RunCalls
from relay.broker.history_reads import HistoryReads, Read, lowest_of
from relay.core.channel_lifecycle import ChannelEvent, ChannelLifecycles, ChannelState
from relay.core.errors import BrokerError, BrokerRefused, BrokerUnavailable
from relay.core.families import RENEW_INTERVAL, is_family
from relay.core.hub import Hub
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from relay.core.whole_values import WholeValuePace

_log = structlog.get_logger("relay.channel_subscriptions")

#: Channels that are caught up with in one round trip.
_CATCH_UPS_AT_ONCE = 64

#: Seconds until a channel is read again that Redis has refused to read.
_RETRY_REFUSED = 2.0

#: Seconds between two log lines about messages that cannot be read.
_LOG_INTERVAL = 60.0

#: What `Position(...)` does, at half of its cost: there is one for each update.
_position = tuple.__new__


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
        on_trace: Callable[[str, Position, str], None] | None = None,
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
            on_trace: Called with the trace context of an update that comes next: its channel, its position, and the context.
        """
        self._hub = hub
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._timeout = timeout
        self._on_flushed = on_flushed
        self._on_trace = on_trace
        self._reads = HistoryReads(run_calls, run_client_calls, retention, timeout, self.recent, hub.histories)
        self._lifecycles = ChannelLifecycles[Read]()
        self._channels: dict[bytes, str] = {}  # confirmed channels by their names in Redis
        self._refused_at = 0.0
        self._reported: set[str] = set()  # channels whose refusal was logged
        self._channels_changed = trio.Event()
        self._catch_up_due = trio.Event()
        self._read_requested = trio.Event()
        self._values_withheld = trio.Event()
        self._whole_values = WholeValuePace()
        self._logged_at = -math.inf
        self.invalid_messages = 0
        self.messages = 0

    # Called by the hub and the subscription; nothing here waits.

    def on_change(self, channel: str) -> None:
        """A channel got its first subscriber or lost its last."""
        is_wanted = channel in self._hub.channels
        self._apply(ChannelEvent.WANTED if is_wanted else ChannelEvent.UNWANTED, channel)
        self._channels_changed.set()

    def on_gap(self, channel: str) -> None:
        """A channel needs a snapshot."""
        self._apply(ChannelEvent.GAP, channel)

    def on_withheld(self, channel: str, is_urgent: bool) -> None:
        """A channel needs a snapshot, soon enough for clients that see whole values, and not too often for their bandwidth."""
        self._whole_values.note(channel, monotonic(), is_urgent=is_urgent)
        self._values_withheld.set()

    def on_up(self) -> None:
        """There is a new subscription connection; nothing is subscribed on it yet."""
        self._channels_changed.set()

    def on_down(self, pubsub_channels: Collection[str]) -> None:
        """A subscription connection is gone, on which these were subscribed, or about to be."""
        channels = [keys.channel_of(name) for name in pubsub_channels]
        for channel in channels:
            self._apply(ChannelEvent.DISCONNECTED, channel)
        self._hub.on_disconnect(channels)

    def on_confirmed(self, pubsub_channel: str) -> None:
        """Redis has confirmed a subscription: nothing is missed from here on."""
        self._reads.on_answer()
        self._apply(ChannelEvent.CONFIRMED, keys.channel_of(pubsub_channel))

    def _apply(self, event: ChannelEvent, channel: str) -> None:
        state = self._lifecycles.apply(event, channel)
        name = keys.pubsub_channel(channel).encode()
        if self._lifecycles.is_confirmed(channel):
            self._channels[name] = channel
        else:
            self._channels.pop(name, None)
        if state is ChannelState.BEHIND:
            self._catch_up_due.set()
        elif state is None:
            self._reported.discard(channel)
            self._whole_values.forget(channel)

    def on_receiving(self, is_receiving: bool) -> None:
        """The messages of a turn are about to come, or have all come: hand out what they brought."""
        self._hub.is_receiving = is_receiving
        if not is_receiving and self._hub.has_pending:
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
            if offset == "0" and self._on_notice(channel, epoch, kind, data):
                return False
            position = None if epoch == "-" else _position(Position, (epoch, int(offset)))
            has_operations = kind == TASK_DELTA
        except ValueError:
            self._on_invalid(channel)
            return False
        if not data.isascii():
            data = script_calls.utf8(data)
        if kind == FAMILY_UPDATE:
            update = Update(channel, kind, data, monotonic(), position, True)
        elif has_operations:
            update = Update(channel, TASK_UPDATE, data, monotonic(), position, True)
        else:
            update = Update(channel, kind, data, monotonic(), position)
        self._hub.on_publication(update)
        return self._hub.is_full

    def _on_notice(self, channel: str, epoch: str, kind: str, data: bytes) -> bool:
        """Take a message that is no update, but about one that comes; return whether it is one. Raises ValueError."""
        if kind == "owner":
            self._hub.on_owner(channel, owner_of(data))
        elif kind == TRACE:
            offset, _, given = data.decode().partition(" ")
            context = sampled(given)
            if context is not None and self._on_trace is not None:
                self._on_trace(channel, Position(epoch, int(offset)), context)
        else:
            return False
        return True

    def _on_invalid(self, channel: str) -> None:
        self.invalid_messages += 1
        now = monotonic()
        if now - self._logged_at >= _LOG_INTERVAL:
            self._logged_at = now
            _log.warning("message skipped: not in Relay's format", channel=channel, skipped=self.invalid_messages)

    # Called by sessions.

    def recent(self, channel: str, since: Position) -> Snapshot | None:
        """Return what came after a position, where that is known from a moment ago; None where `resume` has to be awaited."""
        is_live = self._lifecycles.state(channel) is ChannelState.LIVE
        return self._hub.histories.find(channel, since, monotonic()) if is_live else None

    async def resume(self, channel: str, since: Position | None) -> Snapshot:
        """Read what came after a position as `read` does, or return what was read for others a moment ago.

        What was delivered since is in it, so nothing is missed. It may have what was removed from the history meanwhile.
        """
        return await self._wait(channel, since, may_be_recent=True)

    async def read(self, channel: str, since: Position | None) -> Snapshot:
        """Read the history or the state of a channel that has a subscriber, once what is live is received: nothing between the
        two is missed.

        Args:
            channel: The channel.
            since: The position after which history is wanted; None for the state.

        Returns:
            A snapshot. A long history comes in parts, see `Snapshot.is_partial`.

        Raises:
            BrokerUnavailable: Redis does not answer within the time-out, or within five while it answers others or this process
                has to wait for its processor.
            BrokerRefused: Redis answers with an error.
        """
        return await self._wait(channel, since, may_be_recent=False)

    async def _wait(self, channel: str, since: Position | None, *, may_be_recent: bool) -> Snapshot:
        read = self._reads.find(channel, since, may_be_recent=may_be_recent)
        if read is None:
            read = Read(channel, since, may_be_recent=may_be_recent)
            self._reads.add(read)
            if not self._lifecycles.add_read(channel, read):
                self._reads.queue(read)
            self._read_requested.set()
        return await read.wait()

    # The tasks.

    async def run(self) -> None:
        """Subscribe, unsubscribe, catch up and read, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_changes)
            nursery.start_soon(self._run_catch_ups)
            nursery.start_soon(self._reads.run)
            nursery.start_soon(self._run_timeouts)
            nursery.start_soon(self._run_whole_values)
            nursery.start_soon(self._run_families)

    async def _run_changes(self) -> None:
        while True:
            await self._channels_changed.wait()
            self._channels_changed = trio.Event()
            await self._subscribe_and_unsubscribe()

    async def _subscribe_and_unsubscribe(self) -> None:
        """Ask Redis for what is needed. If a connection breaks meanwhile, its channels are needed again when it is up."""
        lifecycles = self._lifecycles
        needed = lifecycles.in_state(ChannelState.NEEDED)
        left = lifecycles.in_state(ChannelState.LEAVING) + lifecycles.in_state(ChannelState.LEAVING_UNCONFIRMED)
        for channel in left:
            self._apply(ChannelEvent.UNSUBSCRIBE_SENT, channel)
            for read in lifecycles.take_reads(channel):
                self._reads.settle(read, BrokerUnavailable("the channel was left"))
        lifecycles.apply_all(ChannelEvent.SUBSCRIBE_SENT, needed)
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
                self._lifecycles.apply_all(ChannelEvent.RETRY, self._lifecycles.in_state(ChannelState.REFUSED))
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
        reads: list[Read] = []
        for channel in channels:
            self._apply(ChannelEvent.READ_SENT, channel)
            since = self._hub.position(channel)
            waiting = self._lifecycles.waiting_reads(channel) if since is None else []
            # A channel without a position needs no read of its own, unless for a state: its first client's says where it
            # stands.
            if waiting and (waiting[0].since is None or not self._hub.needs_snapshot(channel)):
                reads.append(
                    waiting[0]
                    if waiting[0].since is None
                    else lowest_of(waiting).get((channel, waiting[0].since.epoch), waiting[0])
                )
            else:
                reads.append(Read(channel, since, is_relay_position=True))
            self._reads.withdraw(reads[-1])
        try:
            results = await self._reads.read_for_relay(reads)
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

    def _on_caught_up(self, read: Read, snapshot: Snapshot) -> None:
        channel = read.channel
        if self._lifecycles.state(channel) not in (ChannelState.CATCHING_UP, ChannelState.OUTDATED):
            return  # the connection broke, or the channel was left, while it was read
        if snapshot.state is not None:
            self._whole_values.on_read(channel, len(snapshot.state.data), monotonic())
        self._hub.catch_up(channel, snapshot)
        if read.since is not None:
            self._hub.histories.learn(channel, read.since, snapshot, monotonic())
        self._apply(ChannelEvent.CAUGHT_UP, channel)
        if self._lifecycles.state(channel) is ChannelState.LIVE:
            self._reported.discard(channel)
            for waiting in self._lifecycles.take_reads(channel):
                if waiting is read:
                    self._reads.settle(waiting, snapshot)
                elif not self._reads.settle_recent(waiting):
                    self._reads.queue(waiting)

    def _refuse(self, channel: str, refusal: BrokerRefused) -> None:
        """One channel cannot be read: that must not delay the others."""
        if channel not in self._reported:
            self._reported.add(channel)
            _log.error("channel cannot be read", channel=channel, error=str(refusal), retry_in=_RETRY_REFUSED)
        if not self._lifecycles.has(ChannelState.REFUSED):
            self._refused_at = monotonic()
        self._apply(ChannelEvent.READ_REFUSED, channel)
        for read in self._lifecycles.take_reads(channel):
            self._reads.settle(read, refusal)

    async def _run_whole_values(self) -> None:
        """Read channels again whose updates are withheld from clients that want whole values."""
        while True:
            until = self._whole_values.next_at
            changed = self._values_withheld
            if changed.is_set():
                changed = self._values_withheld = trio.Event()
                until = self._whole_values.next_at
            with trio.move_on_after(max(0.0, until - monotonic())) if until < math.inf else trio.CancelScope():
                await changed.wait()
            for channel in self._whole_values.take_due(monotonic()):
                self.on_gap(channel)

    async def _run_families(self) -> None:
        """Keep the families that are followed: catching up with one renews it, and learns it if Redis has forgotten it."""
        while True:
            await trio.sleep(RENEW_INTERVAL)
            for channel in [channel for channel in self._hub.channels if is_family(channel)]:
                self.on_gap(channel)

    async def _run_timeouts(self) -> None:
        """Give up reads that have waited too long. One look at all of them: a deadline for each would cost as much as the
        read."""
        while True:
            await self._read_requested.wait()
            began, pause = monotonic(), self._timeout / 4
            await trio.sleep(pause)
            self._reads.on_tick(pause, monotonic() - began)
            self._reads.give_up_overdue()
            for channel in self._lifecycles.channels_with_reads():
                for read in self._lifecycles.take_reads(channel):
                    if self._reads.is_overdue(read):
                        self._reads.give_up(read)
                    elif not self._lifecycles.add_read(channel, read):
                        self._reads.queue(read)
            is_needed = self._reads or self._lifecycles.channels_with_reads()
            if not self._hub.histories.expire(monotonic()) and not is_needed:
                self._read_requested = trio.Event()
