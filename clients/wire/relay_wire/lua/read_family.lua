-- Where the family of a task stands, what came after a position, or the states of the task and its children: one consistent
-- look. From here on the family has numbers, for some time, see families.
--
-- KEYS  1 meta, hash: epoch, top   2 log, stream   3 the parent's meta
-- ARGV  1 epoch and 2 offset of the position ('' and 0 without one)   3 most entries   4 most bytes of them
--       5 ms for which the family is kept   6 a random epoch   7 the parent's id   8 most children, the most recently active
--       9 most bytes of states, give or take one   10 '1': this relay has passed on the position, it is not a client's word
-- Returns epoch, top, entries (see read), states (id, owner, state; the parent first; only without entries), the parent's owner,
-- and whether there are more children (0 or 1).
--
-- Only for a single server: the children lie in all buckets.
--@include clock
local call = redis.call
local epoch, top = unpack(call('HMGET', KEYS[1], 'epoch', 'top'))
top = tonumber(top)
-- Redis may have forgotten what was passed on, in a crash or a failover.
if not epoch or not top or (ARGV[10] == '1' and ARGV[1] == epoch and tonumber(ARGV[2]) > top) then
  call('HLEN', KEYS[1])
  epoch, top = ARGV[6], 0
  call('DEL', KEYS[1], KEYS[2])
  call('HSET', KEYS[1], 'epoch', epoch, 'top', 0)
end
call('PEXPIRE', KEYS[1], ARGV[5])
call('PEXPIRE', KEYS[2], ARGV[5])
local owner = call('HGET', KEYS[3], 'owner')
--@include entries
if entries then
  return { epoch, top, entries, {}, owner, 0 }
end
local parent, states, size, is_truncated = ARGV[7], {}, 0, 0
local function add(prefix, id, owner)
  local fields = call('HGETALL', prefix .. 'state')
  for i = 2, #fields, 2 do
    if string.byte(fields[i]) == 43 then
      local text = call('GET', prefix .. redis.sha1hex(fields[i - 1]) .. ':text')
      fields[i] = text and text .. (fields[i] == '+"' and '"' or ']') or fields[i]
    end
    size = size + #fields[i - 1] + #fields[i] + 4
  end
  if #fields > 0 then
    states[#states + 1] = { id, owner, fields }
  end
end
add(string.sub(KEYS[3], 1, -5), parent, owner)
local found = {}
for bucket = 0, 63 do
  local prefix = 'relay:{' .. bucket .. '}:'
  local index = redis.pcall('ZREVRANGE', prefix .. 'parent:' .. parent .. ':tasks', 0, ARGV[8], 'WITHSCORES')
  for i = 1, #index, 2 do
    found[#found + 1] = { prefix .. 'task:' .. index[i] .. ':', index[i], tonumber(index[i + 1]) }
  end
end
table.sort(found, function(first, second)
  if first[3] ~= second[3] then
    return first[3] > second[3]
  end
  return first[2] < second[2]
end)
for _, child in ipairs(found) do
  local of_parent, of_owner = unpack(call('HMGET', child[1] .. 'meta', 'parent', 'owner'))
  if of_parent == parent and child[2] ~= parent then
    if #states > tonumber(ARGV[8]) or size > tonumber(ARGV[9]) then
      is_truncated = 1
      break
    end
    add(child[1], child[2], of_owner)
  end
end
return { epoch, top, false, states, owner, is_truncated }
