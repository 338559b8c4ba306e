-- Makes a plain PUBLISH durable, once, however many relays receive it.
--
-- Each relay names the message by its digest, and says the how-manieth time it has received these bytes: the occurrence. It
-- counts from what had been recorded before it began to listen.
--
-- Takes besides the shared arguments:
-- KEYS  the last: the digest's key, "<how often it was recorded> <when, ms> <when> ..."
-- ARGV  18 ms for which the digest is remembered   19 occurrence   20 since when the caller counts, in ms on this clock; 0: ever
--       21... field, value, ...
--@include arguments
--@include clock
--@include channel
local first_field, is_update, is_stall_mark = 21, true, false
local digest_key = KEYS[#KEYS]
local next_top, written_key = tostring(top + 1), nil
--@include occurrence
--@include operations
--@include state_limits
if refusal then
  return redis.error_reply(refusal)
end
--@include checks
if options_refusal then
  return redis.error_reply(options_refusal)
end
--@include apply
call('SET', digest_key, recorded, 'PX', ARGV[18])
return { epoch, offset, 0, before, is_truncated and 1 or 0 }
