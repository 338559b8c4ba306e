-- Creates an announced task, see the fragment creation. The announcement itself is an update of another channel.
--
-- Takes besides the shared arguments:
-- KEYS  the last: the idempotency key, if ARGV 18 is not 0
-- ARGV  18 ms for which the idempotency key is remembered, 0 without a key   19... field, value, ...
--@include arguments
--@include clock
--@include channel
local first_field = 19
local written_key = ARGV[18] ~= '0' and KEYS[#KEYS]
if written_key and call('EXISTS', written_key) == 1 then
  return { epoch, top, 1, 0, 0 }
end
--@include creation
if written_key then
  call('SET', written_key, epoch .. ' ' .. next_top, 'PX', ARGV[18])
end
if is_known then
  call('HSET', meta, 'announced', 1)
  set_options()
  send_to_families(nil, new_parent or new_owner)
  return { epoch, top, 1, 0, 0 }
end
--@include apply
call('HSET', meta, 'announced', 1)
return { epoch, offset, 0, 0, is_truncated and 1 or 0 }
