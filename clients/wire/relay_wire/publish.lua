-- One durable publish: number it, keep it, fold it into the state, hand it to whoever listens. All or nothing.
--
-- KEYS  1 meta   hash: epoch, top (the last offset)
--       2 log    stream: entry <offset>-0 has time (ms), type, data
--       3 state  hash: field -> raw JSON text; only tasks have fields
--       4 tasks, 5 running   sorted sets of the bucket: task id by last activity; only for tasks
--       the last: what it is known by, a string; only where ARGV 11 is 'id' or 'heard'
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

local epoch, top, last_status, stalled, renewed, active =
  unpack(redis.call('HMGET', meta, 'epoch', 'top', 'status', 'stalled', 'renewed', 'active'))
if not epoch then
  epoch, top, last_status, stalled, renewed, active = ARGV[5], 0, false, false, false, false
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
  local key = KEYS[#KEYS]
  local known = redis.call('GET', key)
  if ARGV[11] == 'id' then
    if known then
      -- A write, however small: without one WAIT on this connection would have nothing to wait for.
      redis.call('PEXPIRE', key, ARGV[13])
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
  redis.call('XADD', log, 'MAXLEN', '~', ARGV[6], top .. '-0', 'time', now, 'type', kind, 'data', data)
  redis.call(ARGV[2], ARGV[1], epoch .. ' ' .. top .. ' ' .. kind .. '\n' .. data)
end

-- Times to live are set anew when a hundredth of the shortest has passed: to do it each time costs as much as the rest.
local shortest = math.min(ARGV[7], ARGV[8], ARGV[9], ARGV[10])
local is_due = not renewed or now - renewed > shortest / 100
local changes = {}

local is_update = ARGV[11] ~= 'beat' and ARGV[11] ~= 'create'
if not is_update and redis.call('EXISTS', state) == (ARGV[11] == 'beat' and 0 or 1) then
  -- A sign of life is for a task that there is, a first state for one that there is not yet.
  return { epoch, top, 1, 0 }
end
-- The new top before all else, for it is refused when there is no memory.
if is_update then
  changes = { 'top', top + 1 }
end
if is_due then
  changes[#changes + 1] = 'renewed'
  changes[#changes + 1] = now
end

local status = ARGV[16]
local is_task = ARGV[17] ~= ''
local has_new_status = is_task and status ~= '' and status ~= last_status
if has_new_status then
  changes[#changes + 1] = 'status'
  changes[#changes + 1] = status
elseif is_task then
  status = last_status
end
-- Activity is as exact as a tenth of a second; a task that is taken for silent has been for longer.
local is_active = is_task
  and ARGV[11] ~= 'stall'
  and (not active or stalled or has_new_status or now - active > 100 or now < tonumber(active))
if is_active then
  changes[#changes + 1] = 'active'
  changes[#changes + 1] = now
end
if ARGV[11] == 'stall' then
  changes[#changes + 1] = 'stalled'
  changes[#changes + 1] = 1
end
if #changes > 0 then
  redis.call('HSET', meta, unpack(changes))
end

local offset = top
if is_update then
  put(ARGV[3], ARGV[4])
  offset = top
  -- Age: now and then some of the oldest go, so that no single publish pays for many.
  if is_due or top % 16 == 0 then
    local count = 1
    repeat
      local old = 0
      for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', count)) do
        if tonumber(entry[2][2]) >= now - tonumber(ARGV[7]) then
          break
        end
        redis.call('XDEL', log, entry[1])
        old = old + 1
      end
      count = count + 39
    until old == 0 or count > 40
  end
end

local is_grown = false
if is_task then
  if #ARGV > 17 then
    is_grown = redis.call('HSET', state, unpack(ARGV, 18)) > 0
  end
  if ARGV[11] == 'stall' then
    redis.call('ZREM', KEYS[5], ARGV[17])
  else
    if stalled then
      -- It lives after all, and its watchers see that.
      redis.call('HDEL', meta, 'stalled')
      redis.call('HSET', state, 'stalled', 'false')
      redis.call('HSET', meta, 'top', top + 1)
      put('task_update', '{"stalled":false}')
    end
    if is_active then
      redis.call('ZADD', KEYS[4], now, ARGV[17])
      if status == 'running' then
        redis.call('ZADD', KEYS[5], now, ARGV[17])
      else
        redis.call('ZREM', KEYS[5], ARGV[17])
      end
    end
  end
  if is_due or is_grown or has_new_status then
    redis.call('PEXPIRE', state, status == 'ended' and ARGV[10] or ARGV[9])
  end
end
if is_due then
  redis.call('PEXPIRE', meta, ARGV[8])
  redis.call('PEXPIRE', log, ARGV[7])
end
return { epoch, offset, 0, before }
