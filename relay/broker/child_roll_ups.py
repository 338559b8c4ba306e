"""Children rolled up into their parents: what the scripts have noted is read, counted with the parents, and then struck out.

A parent may lie on another node of a cluster than its children. The script that changes a child therefore leaves a note in the
child's bucket, in the same step; one relay of many carries the notes to the parents, several times per second. A note is struck
out only after its parent includes it, and not if the child has changed meanwhile: whatever breaks, a parent gets each
child at least once, and twice changes nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import structlog
from relay_wire import keys, publications
from relay_wire.publications import ChildReport, Retention, ScriptCall
from relay_wire.scripts import Script
from relay_wire.statuses import CANCELLED, COMPLETED, FAILED, IN_PROGRESS, PENDING, TERMINAL

from relay.broker.contract import RunCalls
from relay.broker.task_list import run_all
from relay.broker.task_store import LOCK
from relay.core.errors import BrokerError
from relay.core.task_state import status_of

_log = structlog.get_logger("relay.child_roll_ups")

#: Notes of one bucket that are carried in one round, give or take some, and children in one call for a parent.
_NOTES_AT_ONCE = 256
_CHILDREN_AT_ONCE = 500

_STATUSES = frozenset({PENDING, IN_PROGRESS, COMPLETED, FAILED, CANCELLED})

#: Returns the time, and for each note: its name, its value, the child's id and parent, and the fields that count.
_READ = Script.of(
    """
local clock = redis.call('TIME')
local notes = redis.call('HSCAN', KEYS[1], 0, 'COUNT', ARGV[1])[2]
local found, bucket = {}, string.sub(KEYS[1], 1, -8)
for i = 1, #notes, 2 do
  local length, rest = string.match(notes[i], '^(%d+):(.*)$')
  local parent, child = string.sub(rest, 1, length), string.sub(rest, length + 1)
  local is_child = child ~= parent and redis.call('HGET', bucket .. 'task:' .. child .. ':meta', 'parent') == parent
  local fields = is_child
    and redis.call('HMGET', bucket .. 'task:' .. child .. ':state', 'status', 'progress', 'weight', 'stalled') or false
  found[#found + 1] = { notes[i], notes[i + 1], child, parent, fields }
end
return { clock[1] * 1000 + math.floor(clock[2] / 1000), found }
"""
)
#: Returns whether any bucket has notes, where all are on one server.
_HAS_NOTES = Script.of("return redis.call('EXISTS', unpack(KEYS))")
_ALL_NOTES = [keys.roll_ups(bucket) for bucket in range(keys.BUCKETS)]

_REMOVE_NOTES = Script.of(
    """
local names, done = {}, {}
for i = 1, #ARGV, 2 do
  names[#names + 1] = ARGV[i]
end
for place, value in ipairs(redis.call('HMGET', KEYS[1], unpack(names))) do
  if value == ARGV[2 * place] then
    done[#done + 1] = names[place]
  end
end
if #done > 0 then
  redis.call('HDEL', KEYS[1], unpack(done))
end
"""
)


class _Note(NamedTuple):
    bucket: int
    name: bytes
    value: bytes


class ChildRollUps:
    """Carries what the scripts have noted of children to their parents.

    Args:
        run_calls: Runs scripts for the relay itself.
        run_periodic_calls: Runs those that are run again and again.
        retention: How much is kept, and for how long.
        sharded: Whether the server is a cluster.
    """

    def __init__(
        self, run_calls: RunCalls, run_periodic_calls: RunCalls, retention: Retention, *, sharded: bool
    ) -> None:
        self._run_calls = run_calls
        self._run_periodic_calls = run_periodic_calls
        self._retention = retention
        self._sharded = sharded

    async def may_carry(self, token: str, seconds: float) -> bool:
        """Become, or stay, the one relay that does this. Raises BrokerError.

        Args:
            token: Names this relay.
            seconds: How long the lock lasts.

        Returns:
            It is this one, and there may be something to carry.
        """
        calls = [ScriptCall(LOCK, [keys.ROLL_UP], [token, int(seconds * 1000)])]
        if not self._sharded:  # else the buckets are on several nodes, and `carry` looks as cheaply
            calls.append(ScriptCall(_HAS_NOTES, _ALL_NOTES, []))
        return all(await run_all(self._run_periodic_calls, calls))

    async def carry(self) -> int:
        """Carry a bounded number of notes of each bucket. Returns how many there were. Raises BrokerUnavailable."""
        buckets = range(keys.BUCKETS)
        answers = await self._run_calls(
            [ScriptCall(_READ, [keys.roll_ups(bucket)], [_NOTES_AT_ONCE]) for bucket in buckets]
        )
        seen_ms = 0
        notes: dict[str, list[_Note]] = defaultdict(list)
        reports: dict[str, list[ChildReport]] = defaultdict(list)
        for bucket, answer in zip(buckets, answers, strict=True):
            if isinstance(answer, BrokerError):
                continue  # one node of a cluster is away: its notes wait
            clock_ms, found = answer
            seen_ms = max(seen_ms, clock_ms)
            for name, value, child, parent, fields in found:
                parent_id = parent.decode(errors="replace")
                notes[parent_id].append(_Note(bucket, name, value))
                if child != parent:
                    reports[parent_id].append(_report(child.decode(errors="replace"), fields))
        if notes:
            await self._roll_up(notes, reports, seen_ms)
        return sum(map(len, notes.values()))

    async def _roll_up(
        self, notes: dict[str, list[_Note]], reports: dict[str, list[ChildReport]], seen_ms: int
    ) -> None:
        calls: list[ScriptCall] = []
        parents: list[str] = []
        for parent_id in notes:
            of_parent = reports[parent_id]
            for first in range(0, max(1, len(of_parent)), _CHILDREN_AT_ONCE):
                some = of_parent[first : first + _CHILDREN_AT_ONCE]
                calls.append(
                    publications.roll_up_call(parent_id, some, seen_ms, self._retention, sharded=self._sharded)
                )
                parents.append(parent_id)
        failed: set[str] = set()
        for parent_id, answer in zip(parents, await self._run_calls(calls), strict=True):
            if isinstance(answer, BrokerError):
                failed.add(parent_id)
                _log.warning("children of a task cannot be rolled up", task=parent_id, error=str(answer))
        await self._remove_notes([note for parent_id in notes if parent_id not in failed for note in notes[parent_id]])

    async def _remove_notes(self, notes: Sequence[_Note]) -> None:
        by_bucket: dict[int, list[bytes]] = defaultdict(list)
        for note in notes:
            by_bucket[note.bucket] += (note.name, note.value)
        calls = [ScriptCall(_REMOVE_NOTES, [keys.roll_ups(bucket)], pairs) for bucket, pairs in by_bucket.items()]
        if calls:
            await self._run_calls(calls)


def _report(child: str, fields: Any) -> ChildReport:
    if not fields or not any(fields):
        return ChildReport(child, None)
    status, progress, weight, stalled = fields
    known = status_of({} if status is None else {"status": status})
    if known not in _STATUSES:
        known = IN_PROGRESS
    percent = 100.0 if known in TERMINAL else min(100.0, max(0.0, _number(progress, 0.0)))
    return ChildReport(child, known, percent, min(1e6, max(1e-6, _number(weight, 1.0))), stalled == b"true")


def _number(value: bytes | None, default: float) -> float:
    try:
        return default if value is None else msgspec.json.decode(value, type=float)
    except msgspec.DecodeError:
        return default
