-- What the update changes besides the state, and the last checks before something is written.
--
-- Set before: is_stall_mark, and by channel the state of the channel.
--@include options

-- To set times to live each time would cost as much as the rest.
local is_due = not renewed or now - renewed > tonumber(ARGV[9])

local status = ARGV[12]
local has_new_status = is_task and status ~= '' and status ~= last_status
if not has_new_status then
  status = last_status
end
-- Activity is as exact as a tenth of a second; a task that is taken for silent has been for longer.
local is_active = is_task
  and not is_stall_mark
  and (not active or stalled or has_new_status or now - active > 100 or now < tonumber(active))
-- It is active after all, and its watchers are to see that.
local is_revived = stalled and not is_stall_mark

-- The last checks. A publisher that may not publish must not leave an update that nobody was sent.
if is_active or is_stall_mark then
  call('ZCARD', KEYS[5])
  call('ZCARD', KEYS[6])
end
if is_due and redis.acl_check_cmd and not redis.acl_check_cmd(ARGV[2], ARGV[1], '') then
  return redis.error_reply('NOPERM no permission to publish to ' .. ARGV[1])
end
