"""Reads of channels' histories and states: what is asked for in one turn goes to Redis together, and equal reads are one."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from time import monotonic

import trio
from relay_wire.publications import Retention

from relay.broker import families, script_calls
from relay.broker.contract import RunCalls
from relay.core.errors import BrokerError, BrokerUnavailable
from relay.core.families import is_family
from relay.core.recent_history import RecentHistories
from relay.core.recovery import Snapshot
from relay.core.updates import Position

#: Bytes of one read of a history, give or take one update. What is longer is read in parts.
MAX_READ_BYTES = 128 * 1024

#: Reads of clients in one round trip to Redis: of states alone, and of histories.
STATES_AT_ONCE = 256
HISTORIES_AT_ONCE = 16

#: A read that waits while others are answered, or while this process is not served, is given up after so many time-outs.
_TIMEOUT_FACTOR = 5

#: Seconds by which a process is woken too late that has to wait for its processor.
_LATE = 0.02


class Read:
    """One read, and those that wait for it.

    Attributes:
        channel: The channel.
        since: The position after which history is wanted; None for the state.
        is_relay_position: The position is one that this relay has delivered, not a client's claim.
        may_be_recent: What was read a moment ago will do, with what was delivered since.
        asked_at: When it was asked for first, on the monotonic clock.
        done: Set when there is a result.
        result: What Redis answered.
        waiters: Clients that wait for it.
    """

    __slots__ = ("asked_at", "channel", "done", "is_relay_position", "may_be_recent", "result", "since", "waiters")

    def __init__(
        self, channel: str, since: Position | None, *, is_relay_position: bool = False, may_be_recent: bool = False
    ) -> None:
        self.channel = channel
        self.since = since
        self.is_relay_position = is_relay_position
        self.may_be_recent = may_be_recent
        self.asked_at = monotonic()
        self.done = trio.Event()
        self.result: Snapshot | BrokerError | None = None
        self.waiters = 0

    async def wait(self) -> Snapshot:
        """Wait for the result.

        Raises:
            BrokerError: That is the result.
        """
        self.waiters += 1
        try:
            await self.done.wait()
        finally:
            self.waiters -= 1
        if isinstance(self.result, BrokerError):
            raise self.result
        assert self.result is not None
        return self.result


class HistoryReads:
    """Reads channels: for the relay itself at once, for clients in bounded round trips. Run `run` for those of clients."""

    def __init__(
        self,
        run_calls: RunCalls,
        run_client_calls: RunCalls,
        retention: Retention,
        timeout: float,
        recent: Callable[[str, Position], Snapshot | None],
        histories: RecentHistories,
    ) -> None:
        """Make it.

        Args:
            run_calls: Runs scripts for the relay itself.
            run_client_calls: Runs scripts for clients, on connections of their own, so that these never delay the relay's.
            retention: The limits of what Redis keeps.
            timeout: Seconds within which Redis has to answer.
            recent: Returns what was read of a channel a moment ago, and was delivered since; None where that does not do.
            histories: Take what was read.
        """
        self._recent = recent
        self._histories = histories
        self._run_calls = run_calls
        self._run_client_calls = run_client_calls
        self._retention = retention
        self._timeout = timeout
        #: Reads that were not sent yet, by what they ask for; and those of them that may be sent.
        self._unsent: dict[tuple[str, Position | None, bool], Read] = {}
        self._queued: dict[Read, None] = {}
        self._read_due = trio.Event()
        #: Seconds without an answer in which this process was served, and when it was not.
        self._silence = 0.0
        self._late_at = -math.inf

    def __len__(self) -> int:
        return len(self._queued)

    def find(self, channel: str, since: Position | None, *, may_be_recent: bool) -> Read | None:
        """Return an equal read that was not sent yet, to be shared."""
        return self._unsent.get((channel, since, may_be_recent))

    def add(self, read: Read) -> None:
        """Note a read that may be shared until it is sent."""
        self._unsent[read.channel, read.since, read.may_be_recent] = read

    def queue(self, read: Read) -> None:
        """Send a read with the next round trip."""
        self._queued[read] = None
        self._read_due.set()

    def withdraw(self, read: Read) -> None:
        """Note that a read is sent or settled: what is asked for from here on is another one."""
        self._queued.pop(read, None)
        if self.find(read.channel, read.since, may_be_recent=read.may_be_recent) is read:
            del self._unsent[read.channel, read.since, read.may_be_recent]

    def settle(self, read: Read, result: Snapshot | BrokerError) -> None:
        """Give a result to all that wait for a read."""
        self.withdraw(read)
        read.result = result
        read.done.set()

    def on_answer(self) -> None:
        """Note that Redis has answered something."""
        self._silence = 0.0

    def on_tick(self, expected: float, elapsed: float) -> None:
        """Note that time has passed.

        A process that is woken late has to wait for its processor. That nothing was answered meanwhile says nothing of Redis:
        the answer may be there, or the question was not sent yet.

        Args:
            expected: Seconds after which the caller was to be woken.
            elapsed: Seconds after which it was.
        """
        if elapsed - expected > _LATE:
            self._late_at = monotonic()
        else:
            self._silence += elapsed

    async def run(self) -> None:
        """Send what is queued, until cancelled."""
        while True:
            await self._read_due.wait()
            await trio.lowlevel.checkpoint()  # reads that are asked for in this turn go along
            reads = self._take()
            if not self._queued:
                self._read_due = trio.Event()
            if not reads:
                continue
            results: Sequence[Snapshot | BrokerError]
            began = monotonic()
            try:
                results = await self._read_all(self._run_client_calls, reads)
            except BrokerError as error:
                if monotonic() - began >= self._timeout / 2 and self._late_at >= began:
                    self._queue_again(reads, error)
                    continue
                results = [error] * len(reads)
            for read, result in zip(reads, results, strict=True):
                if read.since is not None and isinstance(result, Snapshot):
                    self._histories.learn(read.channel, read.since, result, monotonic())
                self.settle(read, result)

    def _queue_again(self, reads: Iterable[Read], error: BrokerError) -> None:
        """Send reads again whose time was up while this process was not served, unless they have waited too long."""
        for read in reads:
            if self.is_overdue(read):
                self.settle(read, error)
            else:
                self.queue(read)

    def settle_recent(self, read: Read) -> bool:
        """Settle a read by what was read a moment ago, if that will do; return whether it was settled."""
        if not read.may_be_recent or read.since is None:
            return False
        snapshot = self._recent(read.channel, read.since)
        if snapshot is None:
            return False
        self.settle(read, snapshot)
        return True

    def _take(self) -> list[Read]:
        """Take the reads of one round trip, in the order in which they were asked for.

        Of those of one channel that may share what is read, the one from the lowest position goes first.
        """
        reads: list[Read] = []
        histories = 0
        queued = list(islice(self._queued, 2 * STATES_AT_ONCE))
        lowest = lowest_of(queued)
        for read in queued:
            if self.settle_recent(read):
                continue
            if (
                read.since is not None
                and lowest.get((read.channel, read.since.epoch), read) is not read
                and read.may_be_recent
            ):
                continue
            if len(reads) >= STATES_AT_ONCE or histories >= HISTORIES_AT_ONCE:
                break
            self.withdraw(read)
            if read.waiters:  # else its clients have gone
                reads.append(read)
                histories += read.since is not None
        return reads

    async def read_for_relay(self, reads: Sequence[Read]) -> list[Snapshot | BrokerError]:
        """Send reads for the relay itself, at once.

        Returns:
            The result of each.

        Raises:
            BrokerUnavailable: Redis did not answer at all.
        """
        return await self._read_all(self._run_calls, reads)

    async def _read_all(self, run_calls: RunCalls, reads: Sequence[Read]) -> list[Snapshot | BrokerError]:
        calls = [
            (families.read_call if is_family(read.channel) else script_calls.read_call)(
                read.channel, read.since, self._retention, MAX_READ_BYTES, is_relay_position=read.is_relay_position
            )
            for read in reads
        ]
        answers = await run_calls(calls)
        self.on_answer()
        now = monotonic()
        return [
            answer
            if isinstance(answer, BrokerError)
            else (families if is_family(read.channel) else script_calls).read_snapshot(read.channel, answer, now)
            for read, answer in zip(reads, answers, strict=True)
        ]

    def is_overdue(self, read: Read) -> bool:
        """Whether a read has waited too long: the time-out if Redis is silent, several of them if it answers others.

        Redis is not silent while this process has to wait for its processor.
        """
        factor = 1 if self._silence >= self._timeout else _TIMEOUT_FACTOR
        return monotonic() - read.asked_at > self._timeout * factor

    def give_up(self, read: Read) -> None:
        """Settle a read that has waited too long."""
        self.settle(read, BrokerUnavailable("Redis did not answer in time"))

    def give_up_overdue(self) -> None:
        """Settle the queued reads that have waited too long."""
        for read in list(self._queued):
            if not self.is_overdue(read):
                break  # they are in order
            self.give_up(read)


def lowest_of(reads: Iterable[Read]) -> dict[tuple[str, str], Read]:
    """Return for each channel and epoch the read from the lowest position: of those that may share it, and have waiters."""
    lowest: dict[tuple[str, str], Read] = {}
    for read in reads:
        if read.since is None or not read.may_be_recent or not read.waiters:
            continue
        key = read.channel, read.since.epoch
        known = lowest.setdefault(key, read).since
        if known is not None and read.since.offset < known.offset:
            lowest[key] = read
    return lowest
