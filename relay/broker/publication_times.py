"""When Redis stored an update, by the time stamp in its history, and how long ago something was, on Redis' clock."""

from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

from relay_wire import keys
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script

from relay.broker.contract import RunCalls
from relay.core.updates import Position

#: Redis' clock in microseconds, and the time stamp of an entry in milliseconds: false if it is gone, or of another epoch.
_READ = Script.of(
    "local stored = redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] and redis.call('XRANGE', KEYS[2], ARGV[2], ARGV[2])[1]"
    " local now = redis.call('TIME')"
    " return {now[1] * 1000000 + now[2], stored and stored[2][1] == 'time' and stored[2][2]}"
)

#: Looks at Redis' clock of which the best is used: the one that took the shortest time.
_LOOKS = 40


class WrittenUpdate(NamedTuple):
    """An update that was written to clients.

    Attributes:
        channel: Relay's channel name.
        position: Where it stands.
        written_at: When, on the monotonic clock.
    """

    channel: str
    position: Position
    written_at: float


class PublicationTimes:
    """Reads time stamps from the histories.

    Redis' clock is known to within half of a round trip. Its time stamps are whole milliseconds.

    Args:
        run_calls: Runs scripts.
        sharded: Redis is a cluster, in which each node has a clock of its own.
    """

    def __init__(self, run_calls: RunCalls, *, sharded: bool) -> None:
        self._run_calls = run_calls
        # Seconds that a look took, and by how much Redis' clock was ahead of ours.
        self._looks = deque[tuple[float, float]](maxlen=1 if sharded else _LOOKS)

    async def latencies(self, updates: Sequence[WrittenUpdate]) -> list[float]:
        """Return the seconds from when Redis stored each update to when it was written.

        Updates that are not in the history any more are left out.

        Raises:
            BrokerUnavailable: Redis does not answer within the deadline of a call.
        """
        calls = [
            ScriptCall(_READ, [keys.meta(channel), keys.log(channel)], [position.epoch, f"{position.offset}-0"])
            for channel, position, _ in updates
        ]
        began = monotonic()
        answers = await self._run_calls(calls)
        took = monotonic() - began
        found: list[float] = []
        for update, answer in zip(updates, answers, strict=True):
            match answer:
                case [int(microseconds), stored]:
                    self._looks.append((took, microseconds / 1e6 - (began + took / 2)))
                    if isinstance(stored, bytes) and stored.isdigit():
                        _, ahead = min(self._looks)
                        found.append(max(0.0, update.written_at + ahead - int(stored) / 1000))
        return found
