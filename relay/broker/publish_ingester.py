"""Plain ``PUBLISH`` made durable: every plain message is persisted once, however many relays receive it.

`relay.core.plain_order` and `relay.core.plain_agreement` decide what is persisted when, and `relay.core.occurrences` counts
equal messages; the tasks here perform it: one persists the queue, the other carries on the agreement with the other relays.
"""

import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple

import msgspec
import trio
from redis.exceptions import RedisError
from relay_wire import keys
from relay_wire.channels import TASK_PREFIX
from relay_wire.publications import Occurrence, Retention

from relay.broker import script_calls
from relay.broker.backoff import backoff
from relay.broker.calls_in_turn import run_in_turn
from relay.broker.contract import ImmediateCalls, RunCalls
from relay.broker.ingest_calls import IngestCalls
from relay.broker.record_traces import Spans, begin_spans, end_spans
from relay.broker.unpersisted_log import UnpersistedLog
from relay.core.errors import BadMessage, BrokerError, BrokerRefused, BrokerUnavailable
from relay.core.field_operations import may_have_operations
from relay.core.occurrences import DEDUP_TTL, CountedMessage, OccurrenceCounter
from relay.core.plain_agreement import Announce, CountPeers
from relay.core.plain_order import Outcome, Persist, PlainOrder, ReadClock
from relay.core.plain_queue import Pending
from relay.core.task_state import unpersisted_data
from relay.core.updates import Update
from relay.ticks import sleep_until_tick
from relay.traces import Traces

#: Seconds for which Redis' clock is known after a look at it, and by how much its nodes may differ.
_CLOCK_TTL = 60.0
_CLOCK_SKEW = 0.05

#: Seconds for which calls go one after the other once Redis was not ready: it may be so again.
_CAREFUL_SECONDS = 5.0

#: Seconds that telling other relays that this one ends may take.
_GOODBYE_TIMEOUT = 0.5

_REMEMBER_MS = int(DEDUP_TTL * 1000)


#: What `Occurrence(...)` does, at half of its cost: there is one for each message.
_occurrence = tuple.__new__


def _new_request() -> bytes:
    return secrets.token_hex(8).encode()


class _Begun(NamedTuple):
    """A batch that was written to Redis at once, and its calls."""

    effect: Persist
    calls: IngestCalls


class PublishIngester:
    """Persists plain messages in order."""

    def __init__(
        self,
        run_calls: RunCalls,
        retention: Retention,
        sharded: bool,
        publish: Callable[[str, bytes], Awaitable[int]],
        count: Callable[[str], Awaitable[int]],
        deliver: Callable[[Update], None],
        on_unpersisted: Callable[[], None],
        on_stored: Callable[[int], None],
        traces: Traces | None = None,
        immediate_calls: ImmediateCalls | None = None,
    ) -> None:
        """Make an ingester; run `run` beside the subscription.

        Args:
            run_calls: Runs scripts; may raise BrokerError.
            retention: The limits of what Redis keeps.
            sharded: Redis is a cluster.
            publish: Publishes a message on a channel; may raise BrokerError.
            count: Counts the subscribers of a channel; may raise BrokerError.
            deliver: Delivers an update that Redis does not persist to this process's own clients.
            on_unpersisted: Called each time that this happens.
            on_stored: Called with how many messages this process has stored, and no other before it.
            traces: Makes spans, if anything does.
            immediate_calls: Writes the calls of ``run_calls`` at once, where there is such a connection.
        """
        self._run_calls = run_calls
        self._immediate_calls = immediate_calls if traces is None else None  # spans have calls of their own
        self._retention = retention
        self._sharded = sharded
        self._publish = publish
        self._count = count
        self._deliver = deliver
        self._on_unpersisted = on_unpersisted
        self._on_stored = on_stored
        self._traces = traces
        self._order = PlainOrder(_new_request(), _new_request)
        self._occurrences = OccurrenceCounter(monotonic())
        self._clock: tuple[float, int] | None = None  # one moment, on our clock and on Redis'
        self._changed = trio.Event()
        self._is_idle = False  # the task that persists has nothing to do
        self._has_new = False  # something was received that it was not told of
        self._begun: _Begun | None = None
        self._attempt = 0
        #: Until when calls go one after the other, on the monotonic clock.
        self._careful_until = -math.inf
        self._log = UnpersistedLog()

    # Called by the subscription; nothing here waits.

    def on_reconnecting(self) -> None:
        """A new connection is about to receive plain messages."""
        now = monotonic()
        self._occurrences.restart(now)
        self._clock = None  # it may be another server
        self._order.on_connecting(now)
        self._notify()

    def on_message(self, update: Update, message: bytes) -> None:
        """Take an update that was published plainly.

        Args:
            update: The update, received just now.
            message: The bytes that it was read from, by which relays recognise it.
        """
        if self._order.on_received(update, self._occurrences.count(message, update.received_at)):
            if self._immediate_calls is None:
                self._notify()
            self._has_new = True
        else:
            self._deliver_unpersisted(update)

    def on_turn_end(self) -> None:
        """All that one turn of the event loop has brought was handled: begin to persist it, at once if possible.

        A single update is written here, and its answer read when a later turn ends, so that no task has to be woken for it.
        """
        if self._begun is not None and self._is_idle:
            self._poll()
        if self._has_new:
            self._has_new = False
            if self._begun is not None or not self._begin():
                self._notify()

    def _begin(self) -> bool:
        """Write a batch to Redis at once. Returns False if that is not possible, or the task has more to do."""
        now = monotonic()
        if (
            self._immediate_calls is None
            or not self._is_idle
            or now < self._careful_until
            or not self._knows_clock(now)
        ):
            return False
        effect = self._order.take_unheld(now)
        if effect is None:
            return False
        batch = self._calls_of(effect, {})
        calls = batch.calls()
        self._begun = _Begun(effect, batch)
        return bool(calls) and self._immediate_calls.start(calls) and not self._order

    def _poll(self) -> None:
        """Settle what was begun, if its answers are there."""
        assert self._begun is not None
        assert self._immediate_calls is not None
        try:
            answers = self._immediate_calls.poll()
        except (RedisError, OSError):
            self._notify()  # the task runs the calls again, and handles what they come to
            return
        if answers is not None:
            effect, batch = self._begun
            self._begun = None
            self._settle(effect, batch.results(answers))

    def on_barrier_message(self, _channel: str, message: bytes) -> None:
        """Take what a relay, this one or another, has published on the barrier channel."""
        self._order.on_barrier_message(message, monotonic())
        self._notify()

    def _notify(self) -> None:
        self._changed.set()

    def _deliver_unpersisted(self, update: Update) -> None:
        self._on_unpersisted()
        if update.channel.startswith(TASK_PREFIX):
            try:
                data = unpersisted_data(update.data)
            except BadMessage:
                data = update.data  # too much to be taken apart, so clients see it as it is
            if data is None:
                return
            update = Update(update.channel, update.type, data, update.received_at, None, may_have_operations(data))
        self._deliver(update)

    # The tasks.

    async def run(self) -> None:
        """Persist until cancelled; then tell other relays not to wait for this one, which takes half a second at most."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_barrier)
                nursery.start_soon(self._run_persist)
                nursery.start_soon(self._run_watch)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(_GOODBYE_TIMEOUT):
                await self._announce(self._order.goodbye)

    async def _wait(self, until: float) -> None:
        """Wait until something has happened, or a monotonic time."""
        changed = self._changed
        if changed.is_set():
            changed = self._changed = trio.Event()
        with trio.move_on_after(max(0.0, until - monotonic())) if until < math.inf else trio.CancelScope():
            await changed.wait()

    async def _run_barrier(self) -> None:
        while True:
            effect = self._order.next_barrier(monotonic())
            if isinstance(effect, Announce):
                self._order.on_asked(monotonic(), is_refused=await self._announce(effect.message))
            elif isinstance(effect, CountPeers):
                await self._count_peers()
            else:
                await self._wait(effect.until)
                continue
            self._notify()

    async def _announce(self, message: bytes) -> bool:
        """Publish to all relays. Return whether Redis refuses; where it is unavailable the message will be asked for again."""
        try:
            await self._publish(keys.BARRIER, message)
        except BrokerRefused:
            return True
        except BrokerUnavailable:
            pass
        return False

    async def _count_peers(self) -> None:
        try:
            count = await self._count(keys.BARRIER)
        except BrokerError as error:
            self._order.on_peer_count(None, monotonic(), is_refused=isinstance(error, BrokerRefused))
        else:
            self._order.on_peer_count(count, monotonic())

    async def _run_watch(self) -> None:
        """Have the task wait for answers that no turn has brought within a tick."""
        while True:
            begun = self._begun
            await sleep_until_tick()
            if begun is not None and self._begun is begun:
                self._notify()

    async def _run_persist(self) -> None:
        while True:
            if self._begun is not None:
                begun, self._begun = self._begun, None
                await self._persist(begun.effect, begun.calls)
            effect = self._order.next_persist(monotonic())
            if isinstance(effect, Persist):
                await self._persist(effect)
                await trio.lowlevel.checkpoint()  # what this turn brings goes along
            elif isinstance(effect, Announce):
                await self._announce(effect.message)
            elif isinstance(effect, ReadClock):
                if await self._read_clock() is not None:
                    self._order.on_no_clock(monotonic())
            else:
                self._is_idle = True
                try:
                    await self._wait(effect.until)  # for the end of a turn, which has brought all that it brings
                finally:
                    self._is_idle = False

    async def _persist(self, effect: Persist, begun: IngestCalls | None = None) -> None:
        """Persist a batch, in one round trip unless Redis was away. Or wait for it, where its calls were begun."""
        answers: Sequence[Any] = []
        outage = await self._read_clock() if begun is None else None
        spans: Spans = {} if self._traces is None else begin_spans(self._traces, effect.batch)
        batch = self._calls_of(effect, spans) if begun is None else begun
        calls = batch.calls()
        if outage is None and calls:
            try:
                # A server that was away may come back between two calls, and the second must not overtake the first. In a
                # cluster the other nodes' calls do not wait for that.
                is_careful = monotonic() < self._careful_until and not self._sharded and begun is None
                answers = await (run_in_turn(self._run_calls, calls) if is_careful else self._run_calls(calls))
            except BrokerError as error:
                outage = error
        results = batch.results(answers if outage is None else [outage] * len(calls))
        if spans:
            end_spans(spans, results)
        self._settle(effect, results)

    def _calls_of(self, effect: Persist, spans: Spans) -> IngestCalls:
        calls = IngestCalls(self._retention, _REMEMBER_MS, sharded=self._sharded)
        if spans:
            self._add_traced(calls, effect.batch, spans)
        else:
            add, occurrence = calls.add, self._occurrence
            for pending in effect.batch:
                add(pending[0], occurrence(pending[1]))
        return calls

    def _settle(self, effect: Persist, results: Sequence[int | BrokerError | BadMessage]) -> None:
        """Note what has become of a batch.

        Args:
            effect: The batch.
            results: What `IngestCalls.results` returned.
        """
        is_all_persisted = self._count_persisted(effect.batch, results)
        if is_all_persisted:
            self._order.on_all_persisted()
            self._attempt = 0
            return
        outcomes = [
            (pending, Outcome.PERSISTED if isinstance(result, int) else self._failure(pending, result))
            for pending, result in zip(effect.batch, results, strict=True)
        ]
        is_unready = any(outcome in (Outcome.UNAVAILABLE, Outcome.FULL) for _, outcome in outcomes)
        live_only = self._order.on_outcomes(outcomes, monotonic(), backoff(self._attempt))
        self._attempt = self._attempt + 1 if is_unready else 0
        if is_unready:
            self._careful_until = monotonic() + _CAREFUL_SECONDS
        for update in live_only:
            self._deliver_unpersisted(update)

    def _count_persisted(self, batch: Sequence[Pending], results: Sequence[int | BrokerError | BadMessage]) -> bool:
        """Count what is persisted. Returns whether that is all."""
        stored = persisted = 0
        on_persisted = self._occurrences.on_persisted
        for pending, result in zip(batch, results, strict=True):
            if isinstance(result, int):
                persisted += 1
                if result < 0:
                    result = -1 - result
                else:
                    stored += 1
                on_persisted(pending[1], result)
        if stored:
            self._on_stored(stored)
        return persisted == len(batch)

    def _add_traced(self, calls: IngestCalls, batch: Sequence[Pending], spans: Spans) -> None:
        for place, pending in enumerate(batch):
            span, update = spans.get(place), pending.update
            if span is not None:
                update = msgspec.structs.replace(update, trace=span.traceparent)
            calls.add(update, self._occurrence(pending.counted), is_single=span is not None)

    def _failure(self, pending: Pending, reason: BrokerError | BadMessage) -> Outcome:
        if isinstance(reason, BrokerUnavailable):
            return Outcome.UNAVAILABLE
        is_full = isinstance(reason, BrokerRefused) and reason.is_out_of_memory
        text = f"{reason.code}: {reason.message}" if isinstance(reason, BadMessage) else str(reason)
        self._log.note(None if is_full else pending.update.channel, text)
        # The other nodes of a cluster do not wait for one that is full.
        return Outcome.FULL if is_full and not self._sharded else Outcome.REFUSED

    def _occurrence(self, counted: CountedMessage) -> Occurrence:
        digest, number, counted_since, _ = counted
        since = 0
        if counted_since and self._clock is not None:
            ours, redis_ms = self._clock
            since = redis_ms - int((ours - counted_since + _CLOCK_SKEW) * 1000)
        return _occurrence(Occurrence, (digest, number, since, _REMEMBER_MS))

    def _knows_clock(self, now: float) -> bool:
        return self._clock is not None and now - self._clock[0] <= _CLOCK_TTL

    async def _read_clock(self) -> BrokerError | None:
        began_at = monotonic()
        if not self._knows_clock(began_at):
            try:
                (answer,) = await self._run_calls([script_calls.clock_call()])
            except BrokerError as error:
                return error
            redis_ms = answer if isinstance(answer, BrokerError) else script_calls.read_clock(answer)
            if isinstance(redis_ms, BrokerError):
                return redis_ms
            now = monotonic()
            self._clock = now, redis_ms
            # All that relays compare by it is earlier than what they have in common by the skew of a cluster's nodes.
            skew = _CLOCK_SKEW if self._sharded else 0.0
            self._order.on_clock(began_at - skew, now + skew, redis_ms)
        return None
