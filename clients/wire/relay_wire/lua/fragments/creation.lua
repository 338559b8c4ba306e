-- What an announcement does to its task, and all that may refuse it. Sets is_known (the announcement is of what is there
-- already), is_update and next_top.
--
--   the task                           | becomes
--   -----------------------------------|---------------------------------------------------------------------------
--   does not exist                     | its first state, silently: nobody can have seen another one
--   existed, and its state expired     | a new life
--   exists, not announced, not ended   | announced: its first update was faster than the announcement
--   exists, announced or ended         | a new life
--
-- A new life is published, so that those who watch see it.
local is_known = false
if not is_new and field_count > 0 then
  if last_status == 'ended' or call('HGET', meta, 'announced') then
    call('XLEN', log)
    is_new, has_leftovers, epoch = true, true, ARGV[3]
    top, volume, uncounted, field_count = 0, 0, 0, 0
    last_status, stalled, renewed, active, owner, parent, texts = false, false, false, false, false, false, false
  else
    is_known = true
  end
end
local is_update, is_stall_mark = has_leftovers, false
local next_top = tostring(top + 1)
--@include operations
--@include state_limits
if refusal and not is_known then
  return redis.error_reply(refusal)
end
--@include checks
if options_refusal then
  return redis.error_reply(options_refusal)
end
