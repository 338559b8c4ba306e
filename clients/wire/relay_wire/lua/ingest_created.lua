-- Creates a task that was announced by a plain PUBLISH, once, however many relays receive it; see create and ingest.
--
-- Takes besides the shared arguments:
-- KEYS  the last: the digest's key, "<how often it was recorded> <when, ms> <when> ..."
-- ARGV  18 ms for which the digest is remembered   19 occurrence   20 since when the caller counts, in ms on this clock; 0: ever
--       21... field, value, ...
--@include arguments
--@include clock
--@include channel
local first_field, written_key = 21, nil
local digest_key = KEYS[#KEYS]
--@include occurrence
--@include creation
if is_known then
  call('SET', digest_key, recorded, 'PX', ARGV[18])
  call('HSET', meta, 'announced', 1)
  set_options()
  send_to_families(nil, new_parent or new_owner)
  return { epoch, top, 1, before, 0 }
end
--@include apply
call('SET', digest_key, recorded, 'PX', ARGV[18])
call('HSET', meta, 'announced', 1)
return { epoch, offset, 0, before, is_truncated and 1 or 0 }
