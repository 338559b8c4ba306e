-- The options of a task's creation: who owns it, and its parent.
--
-- owner, a JSON array of texts in order, is set when it is given and differs; '[]' removes it. parent is set once in a life. A
-- new life has neither, unless they are given again. Relays hear of another owner before they hear of the update.
local new_owner = is_task and ARGV[16] ~= '' and ARGV[16] ~= (owner or '[]') and ARGV[16]
local new_parent = is_task and ARGV[17] ~= '' and not parent and ARGV[17]
if parent and ARGV[17] ~= '' and ARGV[17] ~= parent then
  return redis.error_reply('PARENTFIXED the task has the parent ' .. parent .. '; a task keeps its parent for its whole life')
end
local function set_options()
  if new_owner == '[]' then
    call('HDEL', meta, 'owner')
  elseif new_owner then
    call('HSET', meta, 'owner', new_owner)
  end
  if new_parent then
    call('HSET', meta, 'parent', new_parent)
  end
  if new_owner then
    call(ARGV[2], ARGV[1], epoch .. ' 0 owner\n' .. new_owner)
  end
end
