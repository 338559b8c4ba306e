"""The positions of updates to which their publishers gave an id, so that a client can resume by it."""

from hashlib import blake2b
from typing import Any

from relay_wire import keys
from relay_wire.publications import Retention, ScriptCall
from relay_wire.scripts import Script

from relay.broker.contract import RunCalls
from relay.core.errors import BrokerError, BrokerRefused
from relay.core.updates import Position

#: An id that is used again stays that of the first update.
_REMEMBER = Script.of("redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX') return 1")
_FIND = Script.of("return redis.call('GET', KEYS[1])")


class EventPositions:
    """Remembers ids for as long as the updates are kept.

    Args:
        run_calls: Runs scripts for clients.
        retention: Its history time is how long they are remembered.
    """

    def __init__(self, run_calls: RunCalls, retention: Retention) -> None:
        self._run_calls = run_calls
        self._milliseconds = retention.history_ttl * 1000

    async def remember(self, channel: str, event_id: str, position: Position) -> None:
        """Remember the position of an update. Raises BrokerError."""
        values = [f"{position.epoch} {position.offset}", self._milliseconds]
        await self._call(ScriptCall(_REMEMBER, [_key(channel, event_id)], values))

    async def find(self, channel: str, event_id: str) -> Position | None:
        """Return the position of an update; None where it is not known any more.

        Raises:
            BrokerError: Redis cannot be asked.
        """
        answer = await self._call(ScriptCall(_FIND, [_key(channel, event_id)], []))
        if answer is None:
            return None
        try:
            epoch, offset = answer.decode().split(" ")
            return Position(epoch, int(offset))
        except (ValueError, AttributeError) as error:
            raise BrokerRefused(f"the position of an event cannot be read: {error}") from error

    async def _call(self, call: ScriptCall) -> Any:
        (answer,) = await self._run_calls([call])
        if isinstance(answer, BrokerError):
            raise answer
        return answer


def _key(channel: str, event_id: str) -> str:
    return keys.event_id(channel, blake2b(event_id.encode(), digest_size=16).hexdigest())
