-- Requests the end of a task: notes it where workers look when they begin a task, and notifies those that work on one.
--
-- KEYS  1 meta   2 state
-- ARGV  1 Redis channel of requests   2 the request as it is published   3 the reason, which may be empty
-- Returns 'unknown' (there is no such task), 'ended' (nothing is done), or 'requested'. May be repeated.
if redis.call('EXISTS', KEYS[2]) == 0 then
  return 'unknown'
end
if redis.call('HGET', KEYS[1], 'status') == 'ended' then
  return 'ended'
end
redis.call('HSET', KEYS[1], 'cancel', ARGV[3])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 'requested'
