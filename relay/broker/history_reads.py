"""Reads of channels' histories and states: what is asked for in one turn goes to Redis together, and equal reads are one."""

from collections.abc import Sequence
from itertools import islice
from time import monotonic

import trio
from relay_wire.publications import Retention

from relay.broker import families, script_calls
from relay.broker.contract import RunCalls
from relay.core.errors import BrokerError, BrokerUnavailable
from relay.core.families import is_family
from relay.core.recovery import Snapshot
from relay.core.updates import Position

#: Bytes of one read of a history, give or take one update. What is longer is read in parts.
MAX_READ_BYTES = 128 * 1024

#: Reads of clients in one round trip to Redis: of states alone, and of histories.
STATES_AT_ONCE = 256
HISTORIES_AT_ONCE = 16

#: A read that waits while others are answered is given up after so many time-outs.
_TIMEOUT_FACTOR = 5


class Read:
    """One read, and those that wait for it.

    Attributes:
        channel: The channel.
        since: The position after which history is wanted; None for the state.
        is_own: The position is one that this relay has delivered, not a client's claim.
        asked_at: When it was asked for first, on the monotonic clock.
        done: Set when there is a result.
        result: What Redis answered.
        waiters: Clients that wait for it.
    """

    __slots__ = ("asked_at", "channel", "done", "is_own", "result", "since", "waiters")

    def __init__(self, channel: str, since: Position | None, *, is_own: bool = False) -> None:
        self.channel = channel
        self.since = since
        self.is_own = is_own
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

    def __init__(self, run_calls: RunCalls, run_client_calls: RunCalls, retention: Retention, timeout: float) -> None:
        """Make it.

        Args:
            run_calls: Runs scripts for the relay itself.
            run_client_calls: Runs scripts for clients, on connections of their own, so that these never delay the relay's.
            retention: The limits of what Redis keeps.
            timeout: Seconds within which Redis has to answer.
        """
        self._run_calls = run_calls
        self._run_client_calls = run_client_calls
        self._retention = retention
        self._timeout = timeout
        #: Reads that were not sent yet, by what they ask for; and those of them that may be sent.
        self._unsent: dict[tuple[str, Position | None], Read] = {}
        self._queued: dict[Read, None] = {}
        self._read_due = trio.Event()
        self._answered_at = monotonic()

    def __len__(self) -> int:
        return len(self._queued)

    def find(self, channel: str, since: Position | None) -> Read | None:
        """Return an equal read that was not sent yet, to be shared."""
        return self._unsent.get((channel, since))

    def add(self, read: Read) -> None:
        """Note a read that may be shared until it is sent."""
        self._unsent[read.channel, read.since] = read

    def queue(self, read: Read) -> None:
        """Send a read with the next round trip."""
        self._queued[read] = None
        self._read_due.set()

    def withdraw(self, read: Read) -> None:
        """Note that a read is sent or settled: what is asked for from here on is another one."""
        self._queued.pop(read, None)
        if self.find(read.channel, read.since) is read:
            del self._unsent[read.channel, read.since]

    def settle(self, read: Read, result: Snapshot | BrokerError) -> None:
        """Give a result to all that wait for a read."""
        self.withdraw(read)
        read.result = result
        read.done.set()

    def on_answer(self) -> None:
        """Note that Redis has answered something."""
        self._answered_at = monotonic()

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
            try:
                results = await self._read_all(self._run_client_calls, reads)
            except BrokerError as error:
                results = [error] * len(reads)
            for read, result in zip(reads, results, strict=True):
                self.settle(read, result)

    def _take(self) -> list[Read]:
        """Take the reads of one round trip, in the order in which they were asked for."""
        reads: list[Read] = []
        histories = 0
        for read in list(islice(self._queued, 2 * STATES_AT_ONCE)):
            if len(reads) >= STATES_AT_ONCE or histories >= HISTORIES_AT_ONCE:
                break
            self.withdraw(read)
            if read.waiters:  # else its clients have gone
                reads.append(read)
                histories += read.since is not None
        return reads

    async def read_own(self, reads: Sequence[Read]) -> list[Snapshot | BrokerError]:
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
                read.channel, read.since, self._retention, MAX_READ_BYTES, is_ours=read.is_own
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
        """Whether a read has waited too long: the time-out if Redis is silent, several of them if it answers others."""
        now = monotonic()
        factor = 1 if now - self._answered_at > self._timeout else _TIMEOUT_FACTOR
        return now - read.asked_at > self._timeout * factor

    def give_up(self, read: Read) -> None:
        """Settle a read that has waited too long."""
        self.settle(read, BrokerUnavailable("Redis did not answer in time"))

    def give_up_overdue(self) -> None:
        """Settle the queued reads that have waited too long."""
        for read in list(self._queued):
            if not self.is_overdue(read):
                break  # they are in order
            self.give_up(read)
