-- Notes that a task is active. If it was marked as stalled, its watchers are sent that it is no longer.
--
-- Takes the shared arguments only. Does nothing where the task has no state.
--@include arguments
--@include clock
--@include channel
local first_field, is_update, is_stall_mark = 18, false, false
local next_top, written_key = tostring(top + 1), nil
if field_count == 0 then
  return { epoch, top, 1, 0, 0 }
end
local last_uncounted = uncounted
--@include operations
--@include checks
--@include apply
return { epoch, offset, 0, 0, 0 }
