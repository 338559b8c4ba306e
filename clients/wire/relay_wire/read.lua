-- Where a channel stands, what came after a position, and its state: one consistent look.
--
-- KEYS  1 meta   2 log   3 state
-- ARGV  1 epoch and 2 offset of the position ('' and 0 for none)   3 most entries   4 epoch for a channel without one
--       5 ms that such an epoch is kept   6 '1': the position was passed on by a relay, not made up by a client
-- Returns epoch, top, entries ({offset, type, data, ...} flat, or false when they are not all there), state (flat).
local epoch, top = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'top'))
if not epoch then
  -- A position that a client may hold from now on needs an epoch to be compared with.
  epoch, top = ARGV[4], 0
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'top', 0)
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  redis.call('DEL', KEYS[2], KEYS[3])
end
top = tonumber(top)
if ARGV[6] == '1' and ARGV[1] == epoch and tonumber(ARGV[2]) > top then
  -- A relay has passed on what Redis has forgotten, in a crash or a fail-over: the same numbers must not be given out again.
  epoch, top = ARGV[4], 0
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'top', 0)
  redis.call('HDEL', KEYS[1], 'renewed')
end
local offset, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local entries = false
if ARGV[1] == epoch and offset >= 0 and offset <= top and top - offset <= most then
  entries = {}
  if offset < top then
    for _, entry in ipairs(redis.call('XRANGE', KEYS[2], (offset + 1) .. '-0', '+')) do
      entries[#entries + 1] = string.match(entry[1], '^%d+')
      entries[#entries + 1] = entry[2][4]
      entries[#entries + 1] = entry[2][6]
    end
    -- All of them or none: the oldest may have gone by count or by age.
    if #entries ~= 3 * (top - offset) then
      entries = false
    end
  end
end
return { epoch, top, entries, redis.call('HGETALL', KEYS[3]) }
