-- The options of a task's creation: who owns it, and its parent.
--
-- owner, a JSON array of texts in order, is set when it is given and differs; '[]' removes it. parent is set once in a life. A
-- new life has neither, unless they are given again. Relays receive another owner before the update.
--
-- The tasks of an owner, and the children of a parent, have indexes like the bucket's own list of tasks, in the same bucket.
--
-- Before the owner may stand "=", a JSON array of ids and a line break: the publisher may write to the task only if it does not
-- exist, or is owned by one of these. Who asks first whether it may, and then writes, might meet another owner by then.
local given_owner, writers = ARGV[16], nil
if string.byte(given_owner) == 61 then
  writers, given_owner = string.match(given_owner, '^=([^\n]*)\n(.*)$')
end
local function is_foreign()
  local owners = {}
  for _, id in ipairs(cjson.decode(last_owner or '[]')) do
    owners[id] = true
  end
  for _, id in ipairs(cjson.decode(writers)) do
    if owners[id] then
      return false
    end
  end
  return true
end

local new_owner = is_task and given_owner ~= '' and given_owner ~= (owner or '[]') and given_owner
local new_parent = is_task and ARGV[17] ~= '' and not parent and ARGV[17]
local options_refusal = parent
  and ARGV[17] ~= ''
  and ARGV[17] ~= parent
  and 'PARENTFIXED the task has the parent ' .. parent .. '; a task keeps its parent for its whole life'
if writers and is_task and call('EXISTS', state) == 1 and is_foreign() then
  options_refusal = 'NOTOWNER the task is owned by others'
end

-- The ids of KEYS[5] in their own order, for those who look for ids that begin in a certain way.
local names_index = string.sub(KEYS[5] or '', 1, -6) .. 'names'

-- Most tasks in an index of a bucket: the least recently active are left out.
local max_listed = 1000

local function indexes_of(owner, parent)
  local bucket, names = string.sub(KEYS[5], 1, -6), {}
  if owner then
    local is_readable, ids = pcall(cjson.decode, owner)
    for _, id in ipairs(is_readable and ids or {}) do
      names[#names + 1] = bucket .. 'owner:' .. tostring(id) .. ':tasks'
    end
  end
  if parent then
    names[#names + 1] = bucket .. 'parent:' .. parent .. ':tasks'
  end
  return names
end

-- Lists the task as active now. `is_due`: the list itself is looked after, too. What others have put under an index's name holds
-- up nothing.
local function list(owner, parent, is_due)
  for _, index in ipairs(indexes_of(owner, parent)) do
    if redis.pcall('ZADD', index, now, ARGV[13]) == 1 or is_due then
      redis.pcall('ZREMRANGEBYSCORE', index, '-inf', now - ARGV[7])
      redis.pcall('ZREMRANGEBYRANK', index, 0, -max_listed - 1)
      redis.pcall('PEXPIRE', index, ARGV[7])
    end
  end
end

-- Notes a child for its parent: relays roll it up soon.
local function note_child(parent)
  local notes = string.sub(KEYS[5], 1, -6) .. 'rollups'
  if call('HSET', notes, #parent .. ':' .. parent .. ARGV[13], epoch .. ' ' .. top) == 1 then
    call('PEXPIRE', notes, ARGV[7])
  end
end

-- The owner that those are sent who follow the task with its children, if it changes.
local owner_of_family = new_owner or (is_task and is_new and last_owner and '[]')

--@include families

local function set_options()
  if is_new or new_owner then
    for _, index in ipairs(indexes_of(last_owner, is_new and last_parent)) do
      redis.pcall('ZREM', index, ARGV[13])
    end
  end
  if new_owner == '[]' then
    call('HDEL', meta, 'owner')
  elseif new_owner then
    call('HSET', meta, 'owner', new_owner)
  end
  if new_parent then
    call('HSET', meta, 'parent', new_parent)
  end
  owner, parent = new_owner or owner, new_parent or parent
  if is_new and last_parent and last_parent ~= parent then
    note_child(last_parent)
  end
  if new_owner or new_parent then
    list(owner, parent, false)
  end
  if new_owner then
    call(ARGV[2], ARGV[1], epoch .. ' 0 owner\n' .. new_owner)
  end
end
