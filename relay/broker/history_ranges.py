"""Parts of channels' histories, forward or backward, for clients that ask for some number of updates."""

from time import monotonic
from typing import Any

from relay_wire import keys
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script

from relay.broker import script_calls
from relay.broker.contract import RunCalls
from relay.core.errors import BrokerError, BrokerRefused
from relay.core.history_range import HistoryPart, HistoryRange
from relay.core.updates import Position

#: Bytes of the updates of one part, give or take one update.
MAX_BYTES = 256 * 1024

# KEYS: meta, log. ARGV: the first id, updates, bytes, XRANGE or XREVRANGE.
# A few are read at a time, and one at first, since how large they are is known only then.
_READ = Script.of(
    "local epoch, top = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'top')) "
    "if not epoch or not top then return { false, 0, {} } end "
    "local left, size, count, start, entries = tonumber(ARGV[2]), 0, 1, ARGV[1], {} "
    "local last = ARGV[4] == 'XRANGE' and '+' or '-' "
    "while left > 0 and size < tonumber(ARGV[3]) do "
    "local some = redis.call(ARGV[4], KEYS[2], start, last, 'COUNT', math.min(count, left)) "
    "for _, entry in ipairs(some) do "
    "if size >= tonumber(ARGV[3]) then break end "
    "entries[#entries + 1] = string.match(entry[1], '^%d+') "
    "entries[#entries + 1] = entry[2][4] entries[#entries + 1] = entry[2][6] "
    "size = size + 128 + #entry[2][6] left = left - 1 start = '(' .. entry[1] end "
    "if #some < math.min(count, left + #some) then break end "
    "count = math.min(2 * count, 16) end "
    "return { epoch, top, entries }"
)


class HistoryRanges:
    """Reads histories for clients.

    Args:
        run_calls: Runs scripts for clients.
    """

    def __init__(self, run_calls: RunCalls) -> None:
        self._run_calls = run_calls

    async def read(self, channel: str, wanted: HistoryRange) -> HistoryPart:
        """Return a part of a channel's history.

        Raises:
            BrokerUnavailable: Redis does not answer within the deadline. BrokerBusy: too many clients are served.
            BrokerRefused: The history cannot be read.
        """
        end = "+" if wanted.reverse else "-"
        start = end if wanted.since is None else f"({wanted.since}-0"
        command = "XREVRANGE" if wanted.reverse else "XRANGE"
        is_before_all = wanted.reverse and wanted.since == 0  # Redis takes no range that ends before the first id
        limit = 0 if is_before_all else max(0, wanted.limit)
        values: list[Any] = [start, limit, MAX_BYTES, command]
        (answer,) = await self._run_calls([ScriptCall(_READ, [keys.meta(channel), keys.log(channel)], values)])
        if isinstance(answer, BrokerError):
            raise answer
        try:
            epoch, top, flat = answer
            if epoch is None:
                return HistoryPart(None, ())
            position = Position(epoch.decode(), int(top))
            return HistoryPart(position, script_calls.read_entries(channel, position.epoch, flat, monotonic()))
        except (ValueError, TypeError, AttributeError) as error:
            raise BrokerRefused(f"the channel's history cannot be read: {error}") from error
