-- Reads a channel after the position that this relay has passed on to its clients, as read.lua does.
--
-- A relay may have passed on what Redis has forgotten, in a crash or a failover. The same numbers must not be given out again:
-- then the channel goes on in a new epoch.
--
-- KEYS  1 meta   2 log   3 state   4 generation
-- ARGV  1 epoch and 2 offset of the position ('' and 0 without one)   3 most entries   4 most bytes of them
--       5 ms for which numbers are kept   6 a random epoch
-- Returns the same as read.lua.
--@include clock
local epoch, top, owner = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'top', 'owner'))
top = tonumber(top)
local is_first = not epoch or not top
if is_first then
  local name, meta_ms = redis.call('GET', KEYS[4]) or '', ARGV[5]
--@include first_epoch
  epoch, top = first_epoch, 0
end
if ARGV[1] == epoch and tonumber(ARGV[2]) > top then
  redis.call('XLEN', KEYS[2])
  redis.call('HLEN', KEYS[3])
  epoch, top = ARGV[6], 0
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'top', 0, 'volume', 0)
  redis.call('HDEL', KEYS[1], 'renewed')
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  redis.call('DEL', KEYS[2])
end
--@include entries
if is_first then
  return { epoch, top, entries, {}, owner }
end
--@include state
return { epoch, top, entries, fields, owner }
