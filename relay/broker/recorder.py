"""Plain ``PUBLISH`` made durable: what today's services send is recorded once, however many relays hear it.

Every relay records all that it hears, in the order in which it hears it; the script recognises what was recorded before. It
does so by a digest of the message and by the ordinal of its hearing: the n-th time that a relay hears the same bytes is the
n-th time that they were published, counted from what had been recorded before it began to listen, or to count. So two
equal messages that are meant as two stay two, and a relay that starts, or dies, between them changes nothing.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import blake2b
from itertools import takewhile
from time import monotonic
from typing import Any, NamedTuple

import structlog
import trio
from relay_wire.publications import Occurrence, Retention, ScriptCall

from relay.broker import script_calls
from relay.broker.backoff import backoff
from relay.broker.contract import RunCalls
from relay.broker.others import Others
from relay.core.errors import BadMessage, BrokerError, BrokerUnavailable
from relay.core.updates import Update

_log = structlog.get_logger("relay.recorder")

#: Seconds that Redis remembers a digest, and that a relay counts its hearings: less, by more than relays differ in when
#: they hear a message.
REMEMBER = 30.0
COUNT = 12.0

#: Seconds by which one relay may hear a message later than another.
_LAG = 5.0

#: Seconds for which Redis' clock is known after a look at it, and by how much its nodes may differ.
_CLOCK_KEPT = 60.0
_SKEW = 0.05

#: Seconds that a relay which begins to hear anew leaves to the others, at least and at most: it may have missed what one of
#: them is about to record, and what it has heard since must not come before that. In between it waits for those that listen to
#: say that they are done; the least is for those that begin anew themselves. Only a relay that starts and finds itself alone
#: does not wait.
HOLD = 0.5
_LONGEST_HOLD = 3.0

#: Digests counted at most.
_MAX_DIGESTS = 200_000

#: Updates that wait to be recorded at most, and seconds that they wait for a Redis that is away, or cannot write now. Beyond
#: either they are delivered live, without a position; when one has waited so long in vain, the next do not wait.
QUEUE = 20_000
PATIENCE = 15.0

#: Updates recorded in one round trip, and their bytes: it has to end within the deadline.
RECORD_AT_ONCE = 256
BYTES_AT_ONCE = 1024 * 1024


class _Count(NamedTuple):
    """How often the same bytes were heard: ``ordinal`` times of those recorded since ``began``, which is 0 when it counts all
    that were ever recorded."""

    ordinal: int
    began: float
    last: float


class _Waiting(NamedTuple):
    update: Update
    digest: str
    counted: _Count


class _Question(NamedTuple):
    """Of another relay: that all before it is recorded is to be said; where we hold back, how much we had heard then."""

    text: bytes
    held: int | None


class Recorder:
    """Records updates in order.

    publish:    publishes a message on a channel; may raise BrokerError
    count:      how many listen to a channel; may raise BrokerError
    pass_on:    delivers an update to this process's own clients, for one that Redis does not record
    on_refused: told each time that this happens
    """

    def __init__(
        self,
        run_calls: RunCalls,
        retention: Retention,
        sharded: bool,
        publish: Callable[[str, bytes], Awaitable[int]],
        count: Callable[[str], Awaitable[int]],
        pass_on: Callable[[Update], None],
        on_refused: Callable[[], None],
    ) -> None:
        self._run_calls = run_calls
        self._retention = retention
        self._sharded = sharded
        #: The other relays. What they say is for its `hear`.
        self.others = Others(publish, count, lambda: self._heard, self._on_asked)
        self._pass_on = pass_on
        self._on_refused = on_refused
        #: Updates, and questions of other relays in between: all before them are to be recorded.
        self._queue: deque[_Waiting | _Question] = deque()
        self._work = trio.Event()
        #: In the order of their last hearing. A dict would take longer and longer to find its oldest one.
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._listening_since = monotonic()
        self._held_until = 0.0
        self._connections = 0
        self._heard = 0  # on this connection
        self._others_are_done = True  # of what is missed once there is a connection
        self._connected = trio.Event()
        self._changed = trio.Event()  # what is held back may go on now
        self._clock: tuple[float, int] | None = None  # one moment, on our clock and on Redis'
        self._waits_in_vain = False  # what had waited long enough was given up, and nothing was recorded since
        #: Redis refused the last update that was to be recorded: it is out of memory, or read-only.
        self.is_refused = False

    def start_hearing(self) -> None:
        """A new connection is about to hear: since the last one something may have been missed, so all is counted anew."""
        self._counts.clear()
        self._listening_since = monotonic()
        self._clock = None  # it may be another server
        self._connections += 1
        self._heard = 0
        self._held_until = self._listening_since + HOLD
        self._others_are_done = False
        self.others.start_hearing()
        self._connected.set()
        self._look_again()

    def _look_again(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def hear(self, update: Update, message: bytes) -> None:
        """Take an update that was published plainly; ``message`` is what it was read from."""
        self._heard += 1
        if len(self._queue) >= QUEUE:
            self._give_up(update)
            return
        digest = blake2b(message, digest_size=12).hexdigest()
        self._queue.append(_Waiting(update, digest, self._count(digest)))
        self._work.set()

    def _count(self, digest: str) -> _Count:
        now = monotonic()
        counts = self._counts
        count = counts.get(digest)
        if count is None or now - count.last > COUNT:
            # Other relays may have heard and recorded it a little before us, but nothing of before we listened was this.
            counts[digest] = count = _Count(1, max(self._listening_since, now - _LAG), now)
        else:
            counts[digest] = count = _Count(count.ordinal + 1, count.began, now)
        counts.move_to_end(digest)
        # As one comes, up to two of the oldest go.
        for _ in range(2):
            if now - counts[next(iter(counts))].last > COUNT or len(counts) > _MAX_DIGESTS:
                counts.popitem(last=False)
        return count

    def _give_up(self, update: Update) -> None:
        self._on_refused()
        self._pass_on(update)

    def _on_asked(self, question: bytes) -> None:
        """Another relay waits for what we had heard before this."""
        if len(self._queue) >= QUEUE:
            return  # it will be put again
        if not self._is_our_turn:
            self._queue.insert(self._count_old(), _Question(question, self._heard))
        self._queue.append(_Question(question, None))
        self._work.set()
        self._look_again()

    @property
    def _is_our_turn(self) -> bool:
        return self._others_are_done and monotonic() >= self._held_until

    def _count_old(self) -> int:
        """What at the head of the queue is older than this connection: we have missed nothing before it."""
        since = self._listening_since
        return sum(
            1 for _ in takewhile(lambda item: isinstance(item, _Question) or item.update.heard < since, self._queue)
        )

    async def run(self) -> None:
        """Record until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_for_others)
            nursery.start_soon(self._record_for_ever)

    async def _wait_for_others(self) -> None:
        while True:
            await self._connected.wait()
            self._connected = trio.Event()
            connection = self._connections
            others = None
            with trio.move_on_after(_LONGEST_HOLD):
                others = await self.others.ask()
            if connection == self._connections:
                self._others_are_done = True
                if others == 0 and connection == 1:
                    self._held_until = 0.0
                self._look_again()

    async def _record_for_ever(self) -> None:
        attempt = 0
        while True:
            await self._work.wait()
            await trio.lowlevel.checkpoint()  # whatever this turn brings goes along
            changed = self._changed
            may_go = len(self._queue) if self._is_our_turn else self._count_old()
            batch = self._take(min(RECORD_AT_ONCE, may_go))
            again: list[_Waiting] = []
            if batch:
                again = await self._record(batch)
                self._queue.extendleft(reversed(again))
            elif self._queue and isinstance(question := self._queue[0], _Question):
                self._queue.popleft()
                with suppress(BrokerError):  # it will be put again
                    await self._answer(question)
            elif self._queue:
                hold = self._held_until - monotonic() if self._others_are_done else math.inf
                with trio.move_on_after(max(0.0, hold)):
                    await changed.wait()
            if not self._queue:
                self._work = trio.Event()
            if again:
                # Less than others hold back for: they may have missed what waits here.
                await trio.sleep(min(backoff(attempt), HOLD / 4))
            attempt = attempt + 1 if again else 0

    async def _answer(self, question: _Question) -> None:
        if question.held is None:
            await self.others.say_done(question.text)
        else:
            await self.others.say_held(question.text, question.held)

    def _take(self, most: int) -> list[_Waiting]:
        """Updates from the head of the queue, up to a question."""
        batch: list[_Waiting] = []
        size = 0
        while len(batch) < most and size < BYTES_AT_ONCE and not isinstance(item := self._queue[0], _Question):
            del self._queue[0]
            batch.append(item)
            size += len(item.update.data)
        return batch

    async def _record(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Record some updates; returns those that are to be tried again, since Redis was away."""
        away = await self._look_at_clock()
        calls: list[ScriptCall] = []
        origin: list[_Waiting | None] = []
        for waiting in batch:
            try:
                occurrence = self._occurrence(waiting)
                created = script_calls.ingest_created_call(
                    waiting.update.data, occurrence, self._retention, sharded=self._sharded
                )
                calls.append(
                    script_calls.ingest_call(waiting.update, occurrence, self._retention, sharded=self._sharded)
                )
            except BadMessage as error:
                _log.warning(
                    "update not recorded", channel=waiting.update.channel, code=error.code, error=error.message
                )
                self._give_up(waiting.update)
                continue
            origin.append(waiting)
            if created is not None:
                calls.append(created)
                origin.append(None)
        if not calls:
            return []
        answers = await self._answers(calls) if away is None else [away] * len(calls)
        again = []
        refused: BrokerError | None = None
        now = monotonic()
        for waiting_or_none, answer in zip(origin, answers, strict=True):
            if waiting_or_none is None:
                continue
            result = answer if isinstance(answer, BrokerError) else script_calls.read_result(answer)
            if not isinstance(result, BrokerError):
                self._learn(waiting_or_none, result.previous)
                self._waits_in_vain = False
            elif (
                isinstance(result, BrokerUnavailable)
                and not self._waits_in_vain
                and now - waiting_or_none.update.heard < PATIENCE
            ):
                again.append(waiting_or_none)
            else:
                self._waits_in_vain = isinstance(result, BrokerUnavailable)
                refused = result
                self._give_up(waiting_or_none.update)
        if refused is not None and not self.is_refused:
            _log.error("redis does not record updates; they are delivered live only", error=str(refused))
        self.is_refused = refused is not None
        return again

    def _occurrence(self, waiting: _Waiting) -> Occurrence:
        count = waiting.counted
        since = 0
        if count.began and self._clock is not None:
            ours, redis_ms = self._clock
            since = redis_ms - int((ours - count.began + _SKEW) * 1000)
        return Occurrence(waiting.digest, count.ordinal, since, int(REMEMBER * 1000))

    async def _look_at_clock(self) -> BrokerError | None:
        if self._clock is None or monotonic() - self._clock[0] > _CLOCK_KEPT:
            try:
                (answer,) = await self._run_calls([script_calls.clock_call()])
            except BrokerError as error:
                return error
            redis_ms = answer if isinstance(answer, BrokerError) else script_calls.read_clock(answer)
            if isinstance(redis_ms, BrokerError):
                return redis_ms
            self._clock = monotonic(), redis_ms
        return None

    async def _answers(self, calls: list[ScriptCall]) -> list[Any]:
        try:
            return await self._run_calls(calls)
        except BrokerError as error:
            return [error] * len(calls)

    def _learn(self, waiting: _Waiting, before: int) -> None:
        """Redis said how often this was recorded before we began to count: from now on we count all of them."""
        count = self._counts.get(waiting.digest)
        if count is not None and count.began and count.began == waiting.counted.began:
            self._counts[waiting.digest] = _Count(count.ordinal + before, 0.0, count.last)
