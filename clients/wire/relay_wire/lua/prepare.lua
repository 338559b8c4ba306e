-- Names the memory of this Redis in buckets that have no name yet, and keeps the names. It is a write, so it also tells whether
-- Redis takes writes now.
--
-- KEYS  generations of buckets
-- ARGV  1 a random name   2 ms for which it is kept
for _, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2])
  redis.call('PEXPIRE', key, ARGV[2])
end
return 1
