-- Where a channel stands, what came after a position, and its state: one consistent look, which writes nothing.
--
-- KEYS  1 meta   2 log   3 state   4 generation
-- ARGV  1 epoch and 2 offset of the position ('' and 0 without one)   3 most entries   4 most bytes of them
--       5 ms for which numbers are kept
-- Returns epoch, top, entries (offset, type, data, ... flat, the first of them where they are more than asked for, or false when
-- the first is gone), state (flat; only without entries), owner (a JSON array of texts, or false).
--@include clock
local epoch, top, owner = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'top', 'owner'))
top = tonumber(top)
if not epoch or not top then
  local name, meta_ms = redis.call('GET', KEYS[4]) or '', ARGV[5]
--@include first_epoch
  epoch, top = first_epoch, 0
  return { epoch, top, ARGV[1] == epoch and ARGV[2] == '0' and {}, {}, false }
end
--@include entries
if entries then
  return { epoch, top, entries, {}, owner }
end
--@include state
return { epoch, top, false, fields, owner }
