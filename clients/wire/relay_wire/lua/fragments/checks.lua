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

-- What counts is noted for its parent at once, and mere progress the less often the more siblings there are: so many
-- milliseconds apart.
local is_noted = false
if (parent or new_parent) and (is_update or is_revived or #ARGV >= first_field) then
  -- The class of a status does not tell one end from another.
  local may_be_other = ARGV[12] == 'ended' or ARGV[12] == 'other'
  is_noted = is_new or has_new_status or may_be_other or is_stall_mark or is_revived or not noted or new_parent
  if not is_noted then
    local siblings = redis.pcall('ZCARD', string.sub(KEYS[5], 1, -6) .. 'parent:' .. parent .. ':tasks')
    is_noted = type(siblings) ~= 'number' or now - noted > 64 * siblings
  end
end

find_family(ARGV[13])
find_family(new_parent or parent)
if is_new and last_parent ~= (new_parent or parent) then
  find_family(last_parent)
end

-- The last checks. A publisher that may not publish must not leave an update that nobody was sent.
if is_active or is_stall_mark then
  call('ZCARD', KEYS[5])
  call('ZCARD', KEYS[6])
end
if is_due and redis.acl_check_cmd and not redis.acl_check_cmd(ARGV[2], ARGV[1], '') then
  return redis.error_reply('NOPERM no permission to publish to ' .. ARGV[1])
end
