-- The family of a task, the task and its children: a channel with the updates of all of them, in one order, for those who follow
-- a task together with its children.
--
-- A family has numbers only while somebody follows it, or did a short time ago: read_family makes them. Without them nothing is
-- written, so a child that nobody follows by its parent costs one more look. The keys lie outside of the buckets, so there are
-- no families on a cluster. What is wrong with a family never holds up the update of a task: a family that cannot be written
-- to loses its numbers, and its relays see that.
--
-- An update of a family is a list: the task's id, its owner, and the data as it was published.
local families = {}
local function find_family(id)
  if id and is_task and ARGV[2] == 'PUBLISH' then
    local name = 'relay:{family}:family:' .. id
    local numbers = redis.pcall('HMGET', name .. ':meta', 'epoch', 'top')
    local family_top = tonumber(numbers[2])
    if numbers[1] and family_top then
      families[#families + 1] = { id = id, name = name, epoch = numbers[1], top = family_top }
    end
  end
end

local function send_to_family(family, update, owner)
  if not family.epoch then
    return
  end
  family.top = family.top + 1
  local place = string.format('%.0f', family.top)
  local message = '[' .. cjson.encode(ARGV[13]) .. ',' .. (owner or '[]') .. ',' .. update .. ']'
  local added = redis.pcall('XADD', family.name .. ':log', 'MAXLEN', '~', ARGV[4], place .. '-0', 'time', now, 'type',
    'family_update', 'data', message)
  local numbered = redis.pcall('HSET', family.name .. ':meta', 'top', place)
  if type(added) == 'table' or type(numbered) == 'table' then
    family.epoch = nil
    redis.pcall('DEL', family.name .. ':meta')
    return
  end
  redis.pcall('PUBLISH', family.name, family.epoch .. ' ' .. place .. ' family_update\n' .. message)
end

-- The whole state as one update. What would be taken for an operation is marked as none.
local function whole_state()
--@include state
  local parts = {}
  for i = 1, #fields, 2 do
    local value = fields[i + 1]
    if string.find(value, '^{%s*"%$') then
      value = '{"$set":' .. value .. '}'
    end
    parts[#parts + 1] = cjson.encode(fields[i]) .. ':' .. value
  end
  return '{' .. table.concat(parts, ',') .. '}'
end

-- Sends an update, or nil if there is none, to the families of the task. A family or an owner that is new to the task may not
-- have seen it yet, and gets its whole state. former_owner: who owned the task in the life that the update is of.
local function send_to_families(update, is_whole, former_owner)
  for _, family in ipairs(families) do
    if family.id == ARGV[13] and family.epoch and owner_of_family then
      redis.pcall('PUBLISH', family.name, '- 0 owner\n' .. owner_of_family)
    end
    if is_whole then
      send_to_family(family, whole_state(), owner)
    elseif update then
      send_to_family(family, update, former_owner or owner)
    end
  end
end
