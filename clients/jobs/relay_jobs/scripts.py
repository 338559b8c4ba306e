"""The steps of a task through the queue, as Lua scripts: each happens as a whole or not at all, and may be repeated.

All keys have one hash tag, so they lie on one node of a cluster:

    relay:{jobs}:queue:<kind>     stream of task ids, read by the group `workers`: what waits for a worker, and what runs
    relay:{jobs}:delayed:<kind>   sorted set: task ids by when they are due, in ms: being created, or to be tried again
    relay:{jobs}:task:<id>        hash: job; token (of this run's creation); entry (in the stream); attempts; owner (the running
                                  attempt); cancel (its cancellation was requested); again (it has ended before, and its
                                  new run was not announced yet)
    relay:{jobs}:kept:<id>        hash: kind, job: of a task that has failed or was cancelled, see `relay_wire.retries`

A task is in exactly one of queue and delayed until it has ended. What needs memory is written first: a script that Redis
refuses for want of it has then changed nothing.
"""

from relay_wire.scripts import Script


def _script(source: str) -> Script:
    return Script.of(source)


_NOW = "local clock = redis.call('TIME') local now = clock[1] * 1000 + math.floor(clock[2] / 1000)\n"

#: KEYS queue, delayed, task; ARGV task id, job, token, bound, ms until it is due in any case.
#: Returns 1 taken, 0 there is a task of this id, -1 the backlog is full.
RESERVE = _script(
    _NOW
    + """
local token = redis.call('HGET', KEYS[3], 'token')
if token then return token == ARGV[3] and 1 or 0 end
if redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[4]) then return -1 end
redis.call('HSET', KEYS[3], 'job', ARGV[2], 'token', ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[5], ARGV[1])
return 1
"""
)

#: KEYS queue, delayed, task; ARGV task id, 'now' or 'due'. Returns 1 if it is in the queue now by this call.
READY = _script(
    _NOW
    + """
local due = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not due or (ARGV[2] == 'due' and tonumber(due) > now) then return 0 end
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('HSET', KEYS[3], 'entry', redis.call('XADD', KEYS[1], '*', 'task_id', ARGV[1]))
end
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""
)

#: KEYS delayed; ARGV how many. Returns task ids.
DUE = _script(_NOW + "return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])")

#: KEYS queues; ARGV group.
OPEN = _script("""
for _, queue in ipairs(KEYS) do
  local made = redis.pcall('XGROUP', 'CREATE', queue, ARGV[1], '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
end
return 1
""")

#: KEYS queues; ARGV group, consumer, how many. XREADGROUP's own COUNT is for each stream, this one for all together.
#: Returns pairs of a queue's place among the keys and its entries.
TAKE = _script("""
local found, left = {}, tonumber(ARGV[3])
for place, queue in ipairs(KEYS) do
  if left > 0 then
    local answer = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', left, 'STREAMS', queue, '>')
    if answer then
      found[#found + 1] = { place, answer[1][2] }
      left = left - #answer[1][2]
    end
  end
end
return found
""")

#: KEYS queue, task; ARGV group, consumer, entry, owner. Returns the action: 'gone' (another worker has it), 'missing'
#: (there is no job), 'cancelled' or 'run'; the job; which attempt this is; the token; 1 if its new
#: run is to be announced.
CLAIM = _script("""
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)[1]
if not held or held[2] ~= ARGV[2] then return { 'gone', '', 0, '', 0 } end
local job, owner, attempts, cancel, token, again =
  unpack(redis.call('HMGET', KEYS[2], 'job', 'owner', 'attempts', 'cancel', 'token', 'again'))
if not job then return { 'missing', '', 0, '', 0 } end
attempts = tonumber(attempts or 0)
if owner ~= ARGV[4] then
  attempts = attempts + 1
  redis.call('HSET', KEYS[2], 'owner', ARGV[4], 'attempts', attempts, 'entry', ARGV[3])
end
return { cancel and 'cancelled' or 'run', job, attempts, token or '', again and 1 or 0 }
""")

#: KEYS queue, task; ARGV group, consumer, entry, owner. Renews the claim.
#: Returns 'kept', 'cancelled' (kept, and to be cancelled), 'lost' (another worker has it) or 'missing' (there is no job).
KEEP = _script("""
local owner, cancel = unpack(redis.call('HMGET', KEYS[2], 'owner', 'cancel'))
if owner ~= ARGV[4] then
  return redis.call('EXISTS', KEYS[2]) == 1 and 'lost' or 'missing'
end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
return cancel and 'cancelled' or 'kept'
""")

#: KEYS task; ARGV token. The new run of an ended task was announced.
ANNOUNCED = _script("""
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then redis.call('HDEL', KEYS[1], 'again') end
return 1
""")

#: KEYS queue, task, kept; ARGV group, entry, owner ('' any), seconds for which its job is kept (0 not), kind. Removes a task
#: that has ended. Returns 1, or 0 if another has it.
FINISH = _script("""
local owner = redis.call('HGET', KEYS[2], 'owner')
if ARGV[3] ~= '' and owner and owner ~= ARGV[3] then return 0 end
local job = redis.call('HGET', KEYS[2], 'job')
if job and ARGV[4] ~= '0' then
  redis.call('HSET', KEYS[3], 'kind', ARGV[5], 'job', job)
  redis.call('EXPIRE', KEYS[3], ARGV[4])
elseif job then
  redis.call('DEL', KEYS[3])
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[2])
return 1
""")

#: KEYS queue, delayed, task; ARGV group, entry, owner, task id, ms until it is tried again. Returns 1, or 0 if another has it.
RETRY = _script(
    _NOW
    + """
if redis.call('HGET', KEYS[3], 'owner') ~= ARGV[3] then return 0 end
redis.call('ZADD', KEYS[2], now + ARGV[5], ARGV[4])
redis.call('HDEL', KEYS[3], 'owner', 'entry')
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
"""
)

#: KEYS queue, task; ARGV group, consumer, entry, owner ('' it has not claim). The next worker that looks may have it, and
#: the attempt does not count. Returns 1, or 0 if another has it.
RELEASE = _script("""
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)[1]
if not held or held[2] ~= ARGV[2] then return 0 end
if ARGV[4] ~= '' then
  if redis.call('HGET', KEYS[2], 'owner') ~= ARGV[4] then return 0 end
  redis.call('HDEL', KEYS[2], 'owner')
  redis.call('HINCRBY', KEYS[2], 'attempts', -1)
end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', 86400000, 'JUSTID')
return 1
""")

#: KEYS task. Returns whether it is 'unknown', 'waiting' or 'running'; the job; the token.
CANCEL = _script("""
local job, owner, token = unpack(redis.call('HMGET', KEYS[1], 'job', 'owner', 'token'))
if not job then return { 'unknown', '', '' } end
redis.call('HSET', KEYS[1], 'cancel', 1)
return { owner and 'running' or 'waiting', job, token or '' }
""")

#: KEYS queue, delayed, task; ARGV group, task id. Removes a task that was cancelled while it waited. Returns 1, or 0 if a
#: worker has it.
DROP = _script("""
local owner, entry = unpack(redis.call('HMGET', KEYS[3], 'owner', 'entry'))
if owner then return 0 end
if entry then
  redis.pcall('XACK', KEYS[1], ARGV[1], entry)
  redis.call('XDEL', KEYS[1], entry)
end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[3])
return 1
""")

#: KEYS queue; ARGV group, consumer ('' those that have been idle for long), idle ms. Removes consumers without tasks.
FORGET = _script("""
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for at = 1, #info, 2 do consumer[info[at]] = info[at + 1] end
  local is_meant = consumer.name == ARGV[2] or (ARGV[2] == '' and consumer.idle > tonumber(ARGV[3]))
  if is_meant and consumer.pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
  end
end
return 1
""")
