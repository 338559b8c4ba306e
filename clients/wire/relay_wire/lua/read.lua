-- Where a channel stands, what came after a position, and its state: one consistent look, which writes nothing.
--
-- KEYS  1 meta   2 log   3 state   4 generation
-- ARGV  1 epoch and 2 offset of the position ('' and 0 without one)   3 most entries   4 most bytes of them
--       5 ms for which numbers are kept
-- Returns epoch, top, entries (offset, type, data, ... flat, or false when they are not all there or more than asked for),
-- state (flat).
--@include clock
local epoch, top, volume = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'top', 'volume'))
top, volume = tonumber(top), tonumber(volume) or 0
if not epoch or not top then
  local name, meta_ms = redis.call('GET', KEYS[4]) or '', ARGV[5]
--@include first_epoch
  epoch, top = first_epoch, 0
  return { epoch, top, ARGV[1] == epoch and ARGV[2] == '0' and {}, {} }
end
--@include entries
return { epoch, top, entries, redis.call('HGETALL', KEYS[3]) }
