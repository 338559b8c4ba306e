-- Writes: numbers the update, appends it to the history, folds it into the state and publishes it.
--
-- Set before: is_update (false: nothing is published), is_stall_mark, first_field, next_top (the text of the offset that comes
-- next), written_key (a key that the script has written already, or nil), and what state_limits and checks set.

-- Who lays updates over each other sees the fields of an ended life go: a last update of it says that they are null.
local closing_update
if is_new and has_leftovers and last_epoch and last_top and is_task then
  local nulls, kept = {}, {}
  for i = first_field, #ARGV, 2 do
    kept[ARGV[i]] = string.byte(ARGV[i + 1]) ~= 43
  end
  for _, name in ipairs(call('HKEYS', state)) do
    if not kept[name] then
      nulls[#nulls + 1] = cjson.encode(name) .. ':null'
    end
  end
  if #nulls > 0 then
    closing_update = last_epoch .. ' ' .. last_top + 1 .. ' task_update\n{' .. table.concat(nulls, ',') .. '}'
  end
end

if is_new then
  local run = is_task and tonumber(call('HGET', meta, 'run')) or 1
  call('HSET', meta, 'epoch', epoch, 'top', 0, 'volume', 0)
  if has_leftovers then
    if is_task then
      call('HSET', meta, 'run', run + 1)
    end
    call('HDEL', meta, 'status', 'stalled', 'uncounted', 'announced', 'cancel', 'owner', 'parent', 'texts', 'truncated')
    call('DEL', log, state, unpack(keys_of(last_texts)))
  end
  if new_generation then
    call('SET', generation, new_generation, 'PX', ARGV[6])
  end
end

local offset = top
if is_update then
  top, volume = top + 1, volume + #data
  offset = top
  local added = redis.pcall('XADD', log, 'MAXLEN', '~', ARGV[4], next_top .. '-0', 'time', now, 'type', kind, 'data', data)
  if type(added) == 'table' then
    -- The log is not a stream, or has later entries than the numbers say.
    if written_key then
      call('DEL', written_key)
    end
    return added
  end
elseif has_fields then
  volume = volume + #data
end
if is_revived then
  top, volume = top + 1, volume + 17
  call('XADD', log, 'MAXLEN', '~', ARGV[4], top .. '-0', 'time', now, 'type', 'task_update', 'data', '{"stalled":false}')
end

if is_due or is_noted or has_new_status or is_active or is_stall_mark or uncounted ~= last_uncounted then
  local changes = { 'top', top, 'volume', volume, 'uncounted', uncounted }
  if is_due then
    changes[7], changes[8] = 'renewed', now
  end
  if has_new_status then
    changes[#changes + 1] = 'status'
    changes[#changes + 1] = status
  end
  if is_noted then
    changes[#changes + 1] = 'noted'
    changes[#changes + 1] = now
  end
  if is_active then
    changes[#changes + 1] = 'active'
    changes[#changes + 1] = now
  elseif is_stall_mark then
    changes[#changes + 1] = 'stalled'
    changes[#changes + 1] = 1
  end
  call('HSET', meta, unpack(changes))
elseif is_update or has_fields then
  call('HSET', meta, 'top', top, 'volume', volume)
end

-- Age: now and then some of the oldest entries go, so that no single publish pays for many.
if is_update and (is_due or top % 16 == 0) then
  local count = 1
  repeat
    local old = 0
    for _, entry in ipairs(call('XRANGE', log, '-', '+', 'COUNT', count)) do
      if tonumber(entry[2][2]) >= now - tonumber(ARGV[5]) then
        break
      end
      call('XDEL', log, entry[1])
      old = old + 1
    end
    count = count + 39
  until old == 0 or count > 40
end

if is_task then
  local is_grown = has_fields and call('HSET', state, unpack(values or ARGV, values and 1 or first_field)) > 0
  local has_new_text = (appends or texts) and write_texts()
  if is_truncated then
    call('HSET', meta, 'truncated', 1)
  end
  if is_revived then
    call('HDEL', meta, 'stalled')
    call('HSET', state, 'stalled', 'false')
  end
  if is_stall_mark then
    call('ZREM', KEYS[6], ARGV[13])
  elseif is_active then
    if call('ZADD', KEYS[5], now, ARGV[13]) == 1 then
      redis.pcall('ZADD', names_index, 0, ARGV[13])
    end
    if status == 'running' then
      call('ZADD', KEYS[6], now, ARGV[13])
    else
      call('ZREM', KEYS[6], ARGV[13])
    end
    if owner or is_noted then
      list(owner, is_noted and parent, is_due)
    end
  end
  if is_due or is_grown or has_new_status or has_new_text then
    local ttl = status == 'ended' and ARGV[8] or ARGV[7]
    call('PEXPIRE', state, ttl)
    for _, key in ipairs(keys_of(texts)) do
      call('PEXPIRE', key, ttl)
    end
  end
end
if is_due then
  call('PEXPIRE', meta, ARGV[6])
  call('PEXPIRE', log, ARGV[5])
end

if closing_update then
  call(ARGV[2], ARGV[1], closing_update)
  send_to_families(string.match(closing_update, '\n(.*)$'), false, last_owner)
end
if is_task then
  set_options()
  if is_noted then
    note_child(parent)
  end
  if is_new and call('EXISTS', children) == 1 then
    if has_leftovers then
      call('DEL', children, rollup, stalled_children)
    else
      note_child(ARGV[13])
    end
  end
end
if is_update then
  if trace then
    -- Relays that know nothing of traces take the offset 0 for one that was delivered.
    call(ARGV[2], ARGV[1], epoch .. ' 0 trace\n' .. next_top .. ' ' .. trace)
  end
  call(ARGV[2], ARGV[1], epoch .. ' ' .. next_top .. ' ' .. kind .. '\n' .. data)
end
if is_revived then
  call(ARGV[2], ARGV[1], epoch .. ' ' .. top .. ' task_update\n{"stalled":false}')
end
if #families > 0 then
  -- A task that is created silently is no news for those who follow it, but for those who follow its parent.
  local is_news = is_update or (is_new and has_fields)
  send_to_families(is_news and data, not is_new and (new_parent or new_owner))
  if is_revived then
    send_to_families('{"stalled":false}')
  end
end
