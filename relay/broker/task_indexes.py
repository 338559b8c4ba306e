"""The indexes of tasks in Redis: which of them a list has to look at, and what they have, the most recently active first.

They are kept bucket by bucket, see `relay_wire.keys`; here they are one. The tasks of owners, the children of a task, and tasks
whose ids are known, or the beginnings of their ids, are found without looking at all others.
"""

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import takewhile
from typing import Any, NamedTuple

from relay_wire import keys
from relay_wire.channels import TASK_PREFIX
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script

from relay.broker.contract import RunCalls
from relay.core.errors import BrokerError, BrokerRefused
from relay.core.grants import Verb
from relay.core.task_filter import TaskFilter

#: Most users and groups whose indexes are read for one client. One with more finds its tasks among all.
MAX_IDENTITIES = 64

#: Ids of a bucket that Redis looks at in one call for those that begin in a certain way, and those of one step.
_SCAN_COUNT = 2048
_STEP = 256

#: Beginnings that are looked up one by one. For more of them a look at the ids costs less.
_MAX_RANGES = 32

#: All ages are by Redis' clock. Scores that are infinite are none of Relay's.
_NOW = "local clock = redis.call('TIME') local now = clock[1] * 1000 + math.floor(clock[2] / 1000) "
_OLDEST = "local oldest = ARGV[2] == '' and '(-inf' or now - ARGV[2] "
_LATEST = Script.of(
    f"{_NOW}{_OLDEST}return redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], oldest, 'WITHSCORES', 'LIMIT', 0, ARGV[3])"
)
# Returns what begins with one of the texts; and where it stopped, unless that is the end of the index. Few of many ids are
# looked up by their texts; many are met soon in the order of their activity.
_BEGINNING = Script.of(
    _NOW
    + _OLDEST
    + f"""
local found, looked, limit, look_at = {{}}, 0, tonumber(ARGV[3]), tonumber(ARGV[4])
local function range(text) return KEYS[2], '[' .. text, '(' .. text .. '\\255' end
local count, is_short = 0, #ARGV <= 4 + {_MAX_RANGES}
for i = 5, is_short and #ARGV or 0 do
  local some = redis.pcall('ZLEXCOUNT', range(ARGV[i]))
  if type(some) == 'number' then count = count + some else is_short = false end
end
if is_short and count * count <= limit * redis.call('ZCARD', KEYS[1]) then
  local newest = ARGV[1] == '(+inf' and math.huge or tonumber(ARGV[1])
  local earliest, tasks, is_known = ARGV[2] == '' and -math.huge or oldest, {{}}, {{}}
  for i = 5, #ARGV do
    for _, id in ipairs(redis.call('ZRANGEBYLEX', range(ARGV[i]))) do
      local score = not is_known[id] and tonumber(redis.call('ZSCORE', KEYS[1], id) or nil)
      is_known[id] = true
      if score and math.abs(score) < math.huge and score <= newest and score >= earliest then
        tasks[#tasks + 1] = {{ score, id }}
      end
    end
  end
  table.sort(tasks, function(first, second) return first[1] > second[1] end)
  for i, task in ipairs(tasks) do
    if i > limit and task[1] < tasks[i - 1][1] then
      return {{ found, {{ '', string.format('%.0f', tasks[i - 1][1]) }} }}
    end
    found[2 * i - 1] = task[2]
    found[2 * i] = string.format('%.0f', task[1])
  end
  return {{ found, {{}} }}
end
local lengths, wanted = {{}}, {{}}
for i = 5, #ARGV do
  local length = #ARGV[i]
  if not wanted[length] then
    wanted[length] = {{}}
    lengths[#lengths + 1] = length
  end
  wanted[length][ARGV[i]] = true
end
local function is_wanted(id)
  for _, length in ipairs(lengths) do
    if wanted[length][string.sub(id, 1, length)] then return true end
  end
end
while true do
  local some = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], oldest, 'WITHSCORES', 'LIMIT', looked, {_STEP})
  for i = 1, #some, 2 do
    if is_wanted(some[i]) then
      found[#found + 1] = some[i]
      found[#found + 1] = some[i + 1]
    end
  end
  looked = looked + {_STEP}
  if #some < 2 * {_STEP} then return {{ found, {{}} }} end
  if looked >= look_at or #found >= 2 * limit then return {{ found, {{ some[#some - 1], some[#some] }} }} end
end"""
)
_THESE = Script.of(
    _NOW
    + """
local oldest, found = ARGV[1] == '' and -math.huge or now - ARGV[1], {}
for i = 2, #ARGV do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score and math.abs(score) < math.huge and tonumber(score) >= oldest then
    found[#found + 1] = ARGV[i]
    found[#found + 1] = score
  end
end
return found"""
)

_BUCKETS = range(keys.BUCKETS)

#: A task's place in the list: its last activity in milliseconds of the Unix epoch, and its id.
IndexEntry = tuple[float, str]


class Entries(NamedTuple):
    """Some entries, the latest first.

    Attributes:
        entries: The entries.
        horizon: All entries before this one are among them; None if all are. There may be others that come later.
    """

    entries: list[IndexEntry]
    horizon: IndexEntry | None


class _Sources(NamedTuple):
    """Where the wanted tasks are: in any of these.

    Attributes:
        indexes: Indexes.
        beginnings: Beginnings of ids, among all tasks.
        task_ids: Ids.
    """

    indexes: Sequence[str] = ()
    beginnings: Sequence[str] = ()
    task_ids: Sequence[str] = ()


class TaskIndexes:
    """The tasks that may be wanted, the latest first.

    Args:
        run_calls: Runs scripts for clients.
        wanted: Which tasks.
    """

    def __init__(self, run_calls: RunCalls, wanted: TaskFilter) -> None:
        self._run_calls = run_calls
        self._sources = _sources(wanted)
        self._oldest = "" if wanted.max_age is None else f"{wanted.max_age * 1000:.0f}"

    async def latest(self, after: IndexEntry | None, at_once: int) -> Entries:
        """Return the next entries, in one round trip; in none where nothing can be wanted.

        Args:
            after: The entry after which they begin.
            at_once: How many of each index; fewer where there are many.

        Raises:
            BrokerUnavailable: Redis does not answer within the deadline. BrokerBusy: too many clients are served.
            BrokerRefused: An index cannot be read.
        """
        calls = list(self._calls(after, at_once))
        lists = [_entries(call, answer) for call, answer in zip(calls, await self._answers(calls), strict=True)]
        horizon = max((each.horizon for each in lists if each.horizon is not None), default=None)
        # A task may be in several lists, and active between the reads of two of them: its latest entry counts.
        merged = merge(*(each.entries for each in lists), reverse=True)
        by_id: dict[str, IndexEntry] = {}
        for entry in merged:
            if after is None or entry < after:
                by_id.setdefault(entry[1], entry)
        entries = list(by_id.values())
        # Beyond the horizon of one list there may be more of that index, and these would come first.
        return Entries(
            entries if horizon is None else list(takewhile(lambda entry: entry >= horizon, entries)), horizon
        )

    def _calls(self, after: IndexEntry | None, at_once: int) -> Iterator[ScriptCall]:
        newest = "(+inf" if after is None else f"{after[0]:.0f}"
        sources = self._sources
        of_each = max(4, at_once * keys.BUCKETS // max(1, len(sources.indexes)))
        for index in sources.indexes:
            yield ScriptCall(_LATEST, [index], [newest, self._oldest, of_each])
        if sources.beginnings:
            values = [newest, self._oldest, at_once, max(_SCAN_COUNT, 8 * at_once), *sources.beginnings]
            for bucket in _BUCKETS:
                yield ScriptCall(_BEGINNING, [keys.tasks(bucket), keys.names(bucket)], values)
        by_index: dict[str, list[str]] = {}
        for task_id in sources.task_ids:
            by_index.setdefault(keys.channel_keys(TASK_PREFIX + task_id)[4], []).append(task_id)
        for index, task_ids in by_index.items():
            yield ScriptCall(_THESE, [index], [self._oldest, *task_ids])

    async def _answers(self, calls: Sequence[ScriptCall]) -> Sequence[Any]:
        answers = await self._run_calls(calls) if calls else ()
        for answer in answers:
            if isinstance(answer, BrokerError):
                raise answer
        return answers


def _sources(wanted: TaskFilter) -> _Sources:
    """Return the shortest lists that have all tasks that are wanted."""
    if wanted.parent_id is not None:
        return _Sources([keys.tasks_of_parent(bucket, wanted.parent_id) for bucket in _BUCKETS])
    if wanted.owners is not None:
        return _Sources(_of_owners(wanted.owners))
    if wanted.visible_to is None:
        return _Sources([keys.tasks(bucket) for bucket in _BUCKETS])
    scope = wanted.visible_to.scope(Verb.LIST)
    owners = wanted.visible_to.identities if scope.owned else frozenset()
    if scope.everything or scope.topics or len(owners) > MAX_IDENTITIES:
        return _Sources([keys.tasks(bucket) for bucket in _BUCKETS])
    return _Sources(_of_owners(owners), scope.prefixes, sorted(scope.tasks))


def _of_owners(owners: frozenset[str]) -> list[str]:
    return [keys.tasks_of_owner(bucket, owner) for owner in sorted(owners) for bucket in _BUCKETS]


def _entries(call: ScriptCall, answer: Any) -> Entries:
    """Return what an index has; an id with unreadable bytes becomes one that no task has."""
    try:
        if call.script is _BEGINNING:
            found, last = answer
            return Entries(sorted(_pairs(found), reverse=True), _pairs(last)[0] if last else None)
        entries = _pairs(answer)
        is_full = call.script is _LATEST and len(entries) == call.values[2]
        return Entries(
            entries if call.script is _LATEST else sorted(entries, reverse=True), entries[-1] if is_full else None
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise BrokerRefused(f"the index of tasks cannot be read: {error}") from error


def _pairs(answer: Any) -> list[IndexEntry]:
    flat = zip(answer[::2], answer[1::2], strict=True)
    return [(float(score), member.decode(errors="replace")) for member, score in flat]
