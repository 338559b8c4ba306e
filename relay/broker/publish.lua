-- One durable publish: number it, keep it, fold it into the state, hand it to whoever listens. All or nothing.
--
-- KEYS  1 meta   hash: epoch, top (the last offset)
--       2 log    stream: entry <offset>-0 has time (ms), type, data
--       3 state  hash: field -> raw JSON text; only tasks have fields
--       4 index, 5 running   sorted sets: task id by last activity; left out on a cluster, where they lie elsewhere
-- ARGV  1 what to PUBLISH on ('' publishes nothing and takes no number: the fields become state where there is none)
--       2 PUBLISH or SPUBLISH   3 type   4 data   5 epoch for a channel without one
--       6 log: entries   7 log: ms   8 meta: ms   9 state: ms   10 state of an ended task: ms
--       11 '' | 'id' | 'heard'   12 key   13 ms to remember it   14 ordinal   15 ms since the caller began to count (0: always)
--       16 status: '' not in the update, 'running', 'ended'   17 task id   18... field, value, field, value, ...
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
if ARGV[11] ~= '' then
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
      local since = now - tonumber(ARGV[15])
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

if ARGV[1] == '' then
  if redis.call('EXISTS', state) == 1 then
    return { epoch, top, 1, 0 }
  end
else
  top = top + 1
  redis.call('HSET', meta, 'top', top)
  redis.call('XADD', log, 'MAXLEN', '~', ARGV[6], top .. '-0', 'time', now, 'type', ARGV[3], 'data', ARGV[4])
  -- Age: a few of the oldest go with each publish, so that no single one pays for many.
  for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', 2)) do
    if tonumber(entry[2][2]) < now - tonumber(ARGV[7]) then
      redis.call('XDEL', log, entry[1])
    end
  end
  redis.call('PEXPIRE', log, ARGV[7])
end
redis.call('PEXPIRE', meta, ARGV[8])

if #ARGV > 17 then
  redis.call('HSET', state, unpack(ARGV, 18))
  local ended = ARGV[16] == 'ended'
  if ended then
    redis.call('HSET', meta, 'ended', 1)
  elseif ARGV[16] == 'running' then
    redis.call('HDEL', meta, 'ended')
  else
    ended = redis.call('HEXISTS', meta, 'ended') == 1
  end
  redis.call('PEXPIRE', state, ended and ARGV[10] or ARGV[9])
  if KEYS[4] then
    redis.call('ZADD', KEYS[4], now, ARGV[17])
    if ended then
      redis.call('ZREM', KEYS[5], ARGV[17])
    elseif ARGV[16] == 'running' or redis.call('ZSCORE', KEYS[5], ARGV[17]) then
      redis.call('ZADD', KEYS[5], now, ARGV[17])
    end
  end
end

if ARGV[1] ~= '' then
  redis.call(ARGV[2], ARGV[1], epoch .. ' ' .. top .. ' ' .. ARGV[3] .. '\n' .. ARGV[4])
end
return { epoch, top, 0, before }
