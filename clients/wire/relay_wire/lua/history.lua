-- Reads a page of a channel's history: what came after a position, or from the oldest update that is kept; writes nothing.
--
-- KEYS  1 meta   2 log
-- ARGV  1 epoch and 2 offset of the position ('' and 0 from the oldest)   3 most entries   4 most bytes of them
-- Returns epoch and top (false where the channel has no history), entries (offset, type, data, ... flat; false when the first
-- after the position is gone, or the position is of another epoch), owner (a JSON array of texts, or false).
local epoch, top, owner = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'top', 'owner'))
top = tonumber(top)
if not epoch or not top then
  return { false, 0, false, false }
end
if ARGV[1] == '' then
  local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  ARGV[1] = epoch
  ARGV[2] = oldest and math.max(tonumber(string.match(oldest[1], '^%d+')) - 1, top - ARGV[3]) or top
end
--@include entries
return { epoch, top, entries, owner }
