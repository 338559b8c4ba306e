-- Deletes a task: its state, its history and its places in the indexes. Its numbers stay, in a new epoch, so that none is given
-- out again. Those who watch it are sent a last update of its life, "deleted" and null for each of its fields, and then that it has
-- no owner.
--
-- Takes the shared arguments only. Does nothing where the task has no state.
--@include arguments
--@include clock
--@include channel
--@include options
if is_new or field_count == 0 then
  return { epoch, top, 1, 0, 0 }
end
local nulls = { '"deleted":true' }
for _, name in ipairs(call('HKEYS', state)) do
  if name ~= 'deleted' then
    nulls[#nulls + 1] = cjson.encode(name) .. ':null'
  end
end
call('ZCARD', KEYS[5])
call('ZCARD', KEYS[6])
if redis.acl_check_cmd and not redis.acl_check_cmd(ARGV[2], ARGV[1], '') then
  return redis.error_reply('NOPERM no permission to publish to ' .. ARGV[1])
end
find_family(ARGV[13])
find_family(parent)
call('HSET', meta, 'epoch', ARGV[3], 'top', 0, 'volume', 0)
call('HDEL', meta, 'status', 'stalled', 'uncounted', 'announced', 'renewed', 'active', 'cancel', 'owner', 'parent')
call('HDEL', meta, 'texts', 'truncated', 'noted', 'run')
call('PEXPIRE', meta, ARGV[6])
call('DEL', log, state, children, rollup, stalled_children, unpack(keys_of(texts)))
if parent then
  note_child(parent)
end
call('ZREM', KEYS[5], ARGV[13])
redis.pcall('ZREM', names_index, ARGV[13])
call('ZREM', KEYS[6], ARGV[13])
for _, index in ipairs(indexes_of(owner, parent)) do
  redis.pcall('ZREM', index, ARGV[13])
end
call(ARGV[2], ARGV[1], epoch .. ' ' .. string.format('%.0f', top + 1) .. ' task_update\n{' .. table.concat(nulls, ',') .. '}')
owner_of_family = owner and '[]'
send_to_families('{' .. table.concat(nulls, ',') .. '}')
if owner then
  call(ARGV[2], ARGV[1], ARGV[3] .. ' 0 owner\n[]')
end
return { epoch, top + 1, 0, 0, 0 }
