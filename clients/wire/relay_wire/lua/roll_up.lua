-- Rolls up children into their parent: takes what some of them have come to, and publishes the parent's field "children" if that
-- changes it. A parent that does not exist yet gets the field when it is created.
--
-- children: hash, child -> class, percent, weight, stalled (0 or 1), and when it was looked at, in ms; the same may come twice, and
-- what is older changes nothing. rollup: hash of the sums over all of them. stalled_children: the set of the stalled ones.
--
-- Takes besides the shared arguments:
-- ARGV  18 when the children were looked at, in ms   19 most children
--       20... child, class of its status ('gone': it is no child any more), percent, weight, stalled, ...
--@include arguments
--@include clock
--@include channel
local first_field, is_update, is_stall_mark, written_key = #ARGV + 1, true, false, nil
local next_top = tostring(top + 1)
--@include operations
local sums = {}
local function add(name, number)
  sums[name] = (sums[name] or tonumber(call('HGET', rollup, name)) or 0) + number
end
local function count(entry, sign)
  local class, percent, weight, stalled = string.match(entry, '^(%S+) (%S+) (%S+) (%d)')
  add('total', sign)
  add(class, sign)
  add('weight', sign * weight)
  add('done', sign * weight * percent)
  return stalled == '1'
end
local names, entries, gone = {}, {}, {}
for i = 20, #ARGV, 5 do
  names[#names + 1] = ARGV[i]
end
local all_known = #names > 0 and call('HMGET', children, unpack(names)) or {}
local known_count = call('HLEN', children)
for place, child in ipairs(names) do
  local i, known = 15 + 5 * place, all_known[place]
  if not known or tonumber(string.match(known, '%S+$')) <= tonumber(ARGV[18]) then
    local is_gone = ARGV[i + 1] == 'gone'
    if not known and not is_gone and known_count >= tonumber(ARGV[19]) then
      call('HSET', rollup, 'truncated', 1)
    else
      local was_stalled = known and count(known, -1)
      local is_stalled = false
      if is_gone then
        gone[#gone + 1] = child
      else
        local entry = table.concat({ ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[18] }, ' ')
        is_stalled = count(entry, 1)
        entries[#entries + 1] = child
        entries[#entries + 1] = entry
        known_count = known_count + (known and 0 or 1)
      end
      if is_stalled and not was_stalled then
        call('SADD', stalled_children, child)
      elseif was_stalled and not is_stalled then
        call('SREM', stalled_children, child)
      end
    end
  end
end
if #entries > 0 then
  call('HSET', children, unpack(entries))
end
if #gone > 0 then
  call('HDEL', children, unpack(gone))
end
for name, sum in pairs(sums) do
  call('HSET', rollup, name, string.format('%.17g', sum))
end
for _, key in ipairs({ children, rollup, stalled_children }) do
  call('PEXPIRE', key, ARGV[7])
end
if field_count == 0 then
  return { epoch, top, 1, 0, 0 }
end
local numbers = {}
local flat = call('HGETALL', rollup)
for i = 1, #flat, 2 do
  numbers[flat[i]] = tonumber(flat[i + 1])
end
local function number(name)
  return numbers[name] or 0
end
local worst = 'completed'
for _, class in ipairs({ 'pending', 'in_progress', 'cancelled', 'failed' }) do
  if number(class) > 0 then
    worst = class
  end
end
local ended = number('completed') + number('failed') + number('cancelled')
local percent = number('weight') > 0 and number('done') / number('weight') or 0
local stalled = {}
for _, child in ipairs(call('SRANDMEMBER', stalled_children, 10)) do
  stalled[#stalled + 1] = cjson.encode(child)
end
table.sort(stalled)
local value = string.format(
  '{"total":%d,"done":%d,"pending":%d,"in_progress":%d,"completed":%d,"failed":%d,"cancelled":%d,"percent":%s,"status":"%s",'
    .. '"stalled":%d,"stalled_tasks":[%s]%s}',
  number('total'), ended, number('pending'), number('in_progress'), number('completed'), number('failed'),
  number('cancelled'), string.format('%.2f', percent), worst, call('SCARD', stalled_children), table.concat(stalled, ','),
  numbers.truncated and ',"truncated":true' or ''
)
if call('HGET', state, 'children') == value then
  return { epoch, top, 1, 0, 0 }
end
kind, data, values, has_fields = 'task_update', '{"children":' .. value .. '}', { 'children', value }, true
--@include state_limits
if refusal then
  return redis.error_reply(refusal)
end
--@include checks
--@include apply
return { epoch, offset, 0, 0, 0 }
