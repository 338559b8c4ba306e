-- Marks a task as stalled, if it has been silent since the supervisor looked. A task without a state leaves the index instead.
--
-- Takes besides the shared arguments:
-- ARGV  18 the last activity that the supervisor saw   19... field, value
--@include arguments
--@include clock
--@include channel
local first_field, is_update, is_stall_mark = 19, true, true
local next_top, written_key = tostring(top + 1), nil
if call('ZSCORE', KEYS[6], ARGV[13]) ~= ARGV[18] then
  return { epoch, top, 1, 0, 0 }
end
if field_count == 0 then
  call('ZREM', KEYS[6], ARGV[13])
  return { epoch, top, 1, 0, 0 }
end
--@include operations
--@include state_limits
if refusal then
  return redis.error_reply(refusal)
end
--@include checks
--@include apply
return { epoch, offset, 0, 0, is_truncated and 1 or 0 }
