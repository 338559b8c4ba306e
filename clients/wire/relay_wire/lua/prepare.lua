-- Names the memory of this Redis in buckets that have no name yet, and keeps the names. After keys were evicted the names are
-- others, for channels may have lost their numbers. It is a write, so it also shows whether Redis takes writes now.
--
-- KEYS  generations of buckets
-- ARGV  1 a random name   2 ms for which it is kept
local info = redis.pcall('INFO', 'stats')
local evicted = type(info) == 'string' and string.match(info, 'evicted_keys:(%d+)') or '0'
for _, key in ipairs(KEYS) do
  local name = redis.pcall('GET', key) -- an error if somebody else has put something else there
  if type(name) ~= 'string' or string.match(name, '%d+$') ~= evicted then
    name = ARGV[1] .. ' ' .. evicted
  end
  redis.call('SET', key, name, 'PX', ARGV[2])
end
return 1
