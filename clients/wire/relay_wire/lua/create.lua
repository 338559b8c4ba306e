-- Gives an announced task its first state, unless it has one. The announcement itself is an update of another channel.
--
-- Takes besides the shared arguments:
-- ARGV  16... field, value, ...
--@include arguments
--@include clock
--@include channel
local first_field, is_update, is_stall_mark = 16, false, false
local next_top, written_key = tostring(top + 1), nil
if field_count > 0 then
  return { epoch, top, 1, 0 }
end
--@include state_limits
if refusal then
  return redis.error_reply(refusal)
end
--@include checks
--@include apply
return { epoch, offset, 0, 0 }
