-- Arguments that all scripts which write to a channel share.
--
-- KEYS  1 meta        hash: epoch, top (the last offset), volume (bytes of all updates in this epoch), uncounted (see
--                     state_limits), status, stalled, announced (this life was), renewed (when times to live were set),
--                     active (last activity), cancel (its end was requested, and why), owner (see options), parent (a
--                     task's id), texts and truncated (see operations),
--                     noted (when it was last noted for its parent), run (the how-manieth life of this id it is, from 2 on)
--       2 log         stream: the entry <offset>-0 has time (ms), type, data
--       3 state       hash: field -> raw JSON text, or a marker, see operations; only tasks have fields
--       4 generation  string: names the memory of this Redis (a random name, and the number of evicted keys)
--       5 tasks, 6 running   sorted sets of the bucket: task id by last activity; only for tasks
--       the last      what an update is recognised by, if the script takes such a key
-- ARGV  1 Redis channel to publish to   2 PUBLISH or SPUBLISH   3 a random epoch
--       4 history: entries   5 history: ms   6 meta: ms   7 state: ms   8 state of a task that has ended: ms
--       9 times to live are set again after so many ms   10 state: bytes   11 state: fields
--       12 class of the status: '' not in the update, 'running', 'ended', 'other'   13 task id, '' for other channels
--       14 type   15 data   16 owner and 17 parent, '' where they are not given, see options
--       18... what the script itself takes, and then field, value, field, value, ...; the type task_delta says that there are
--       operations among the values, see there
--       Scripts whose updates are parts of a trace set ARGV.trace: a traceparent of W3C Trace Context. Relays receive it right
--       before the update.
-- All of them return epoch, offset, whether nothing was done (0 or 1), how often the message was recorded before the caller
-- began to count (0 for all scripts but ingest), and whether appended text was left out (0 or 1).
--
-- Every script checks first and writes afterwards, so that it does everything or nothing. The first write is one that Redis
-- refuses when it is out of memory, and fails if the log is no stream: after it, Redis refuses none.
local call = redis.call
local meta, log, state, generation = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local is_task = ARGV[13] ~= ''
-- Of the children of a task: see roll_up.
local prefix = string.sub(state, 1, -6)
local children, rollup, stalled_children = prefix .. 'children', prefix .. 'rollup', prefix .. 'stalled'
local kind, data = ARGV[14], ARGV[15]
local trace = ARGV.trace
