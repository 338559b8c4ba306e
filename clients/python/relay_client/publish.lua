-- One durable publish: number it, keep it, fold it into the state, hand it to whoever listens. All or nothing.
--
-- KEYS  1 meta   hash: epoch, top (the last offset)
--       2 log    stream: entry <offset>-0 has time (ms), type, data
--       3 state  hash: field -> raw JSON text; only tasks have fields
--       4 tasks, 5 running   sorted sets of the bucket: task id by last activity; only for tasks
-- ARGV  1 what to PUBLISH on   2 PUBLISH or SPUBLISH   3 type   4 data   5 epoch for a channel without one
--       6 log: entries   7 log: ms   8 meta: ms   9 state: ms   10 state of an ended task: ms
--       11 how it is known: '', 'id' an idempotency key, 'heard' a digest; or what it is: 'create' a task's first state, where
--          there is none, and 'beat' a sign of life: neither is an update; 'stall' by the supervisor
--       12 key, or for 'stall' the last activity that it saw   13 ms to remember it   14 ordinal
--       15 since when the caller counts, ms on this clock (0: ever)
--       16 status: '' not in the update, 'running', 'ended', 'other'   17 task id, '' for what is no task
--       18... field, value, field, value, ...
-- Returns epoch, offset, whether it was known already (0 or 1), times that the message was recorded before the caller
-- began to count.
local meta, log, state = KEYS[1], KEYS[2], KEYS[3]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local epoch, top = unpack(redis.call('HMGET', meta, 'epoch', 'top'))
if not epoch then
  epoch, top = ARGV[5], 0
  -- This first: it is refused when there is no memory, and after a DEL, which never is, nothing would be.
  redis.call('HSET', meta, 'epoch', epoch, 'top', 0)
  redis.call('PEXPIRE', meta, ARGV[8])
  -- A log or a state that outlived its numbers cannot be continued.
  redis.call('DEL', log, state)
end
top = tonumber(top)

-- A publisher that tries again names its update by an id. Several relays that hear one plain PUBLISH name it by its digest:
-- each says which time it is that it hears it (its ordinal), counting what was recorded before it began to listen.
local before = 0
if ARGV[11] == 'id' or ARGV[11] == 'heard' then
  local key = meta .. ':' .. ARGV[11] .. ':' .. ARGV[12]
  local known = redis.call('GET', key)
  if ARGV[11] == 'id' then
    if known then
      local known_epoch, offset = string.match(known, '^(%S+) (%d+)$')
      return { known_epoch, tonumber(offset), 1, 0 }
    end
    redis.call('SET', key, epoch .. ' ' .. top + 1, 'PX', ARGV[13])
  else
    local count, times = 0, {}
    if known then
      for number in string.gmatch(known, '%d+') do
        times[#times + 1] = tonumber(number)
      end
      count = table.remove(times, 1)
    end
    if ARGV[15] ~= '0' then
      local since = tonumber(ARGV[15])
      before = count
      for _, time in ipairs(times) do
        if time >= since then
          before = before - 1
        end
      end
    end
    if tonumber(ARGV[14]) + before <= count then
      return { epoch, top, 1, before }
    end
    times[#times + 1] = now
    -- Those that somebody may still ask about; a key that is never forgotten must not grow for ever.
    while #times > 256 or times[1] < now - tonumber(ARGV[13]) do
      table.remove(times, 1)
    end
    redis.call('SET', key, (count + 1) .. ' ' .. table.concat(times, ' '), 'PX', ARGV[13])
  end
end

-- The supervisor marks a task only if it has been silent since the supervisor looked.
if ARGV[11] == 'stall' and redis.call('ZSCORE', KEYS[5], ARGV[17]) ~= ARGV[12] then
  return { epoch, top, 1, 0 }
end

local function put(kind, data)
  top = top + 1
  redis.call('HSET', meta, 'top', top)
  redis.call('XADD', log, 'MAXLEN', '~', ARGV[6], top .. '-0', 'time', now, 'type', kind, 'data', data)
  redis.call('PEXPIRE', log, ARGV[7])
  redis.call(ARGV[2], ARGV[1], epoch .. ' ' .. top .. ' ' .. kind .. '\n' .. data)
end

local offset = top
if ARGV[11] == 'beat' or ARGV[11] == 'create' then
  -- A sign of life is for a task that there is, a first state for one that there is not yet.
  if redis.call('EXISTS', state) == (ARGV[11] == 'beat' and 0 or 1) then
    return { epoch, top, 1, 0 }
  end
else
  put(ARGV[3], ARGV[4])
  offset = top
  -- Age: a few of the oldest go with each publish, so that no single one pays for many.
  for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', 2)) do
    if tonumber(entry[2][2]) < now - tonumber(ARGV[7]) then
      redis.call('XDEL', log, entry[1])
    end
  end
end
redis.call('PEXPIRE', meta, ARGV[8])

if ARGV[17] ~= '' then
  if #ARGV > 17 then
    redis.call('HSET', state, unpack(ARGV, 18))
  end
  local status = ARGV[16]
  local stalled = redis.call('HEXISTS', meta, 'stalled') == 1
  if status ~= '' then
    redis.call('HSET', meta, 'status', status)
  else
    status = redis.call('HGET', meta, 'status')
  end
  if ARGV[11] == 'stall' then
    redis.call('HSET', meta, 'stalled', 1)
    redis.call('ZREM', KEYS[5], ARGV[17])
  else
    if stalled then
      -- It lives after all, and its watchers see that.
      redis.call('HDEL', meta, 'stalled')
      redis.call('HSET', state, 'stalled', 'false')
      put('task_update', '{"stalled":false}')
    end
    redis.call('ZADD', KEYS[4], now, ARGV[17])
    if status == 'running' then
      redis.call('ZADD', KEYS[5], now, ARGV[17])
    else
      redis.call('ZREM', KEYS[5], ARGV[17])
    end
  end
  redis.call('PEXPIRE', state, status == 'ended' and ARGV[10] or ARGV[9])
end
return { epoch, offset, 0, before }
