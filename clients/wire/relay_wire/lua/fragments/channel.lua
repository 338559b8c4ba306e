-- The channel as it is: reads, and fails here where a key has a wrong type.
local epoch, top, volume, uncounted, last_status, stalled, renewed, active, owner, parent, texts, noted =
  unpack(call('HMGET', meta, 'epoch', 'top', 'volume', 'uncounted', 'status', 'stalled', 'renewed', 'active', 'owner',
    'parent', 'texts', 'noted'))
local last_texts = texts
local field_count = is_task and call('HLEN', state) or 0
top, volume, uncounted = tonumber(top), tonumber(volume), tonumber(uncounted) or 0

-- The keys of texts that grow, see operations.
local function keys_of(texts)
  local prefix, names = string.sub(state, 1, -6), {}
  for digest in string.gmatch(texts or '', string.rep('%x', 40)) do
    names[#names + 1] = prefix .. digest .. ':text'
  end
  return names
end

-- A channel begins a new life, with an epoch, a history and a state of its own, when it has no numbers, when the state of its
-- task or a text in it has expired, and when a task that has ended is published as one that has not: its id is used again.
local is_new, has_leftovers, new_generation = false, false, nil
-- Of the life that may end here.
local last_epoch, last_top, last_owner, last_parent = epoch, top, owner, parent
if not epoch or not top or not volume then
  is_new = true
  local name = call('GET', generation)
  if not name then
    new_generation = ARGV[3] .. ' 0'
    name = new_generation
  end
  -- A history or a state that outlived its numbers belongs to an earlier life.
  has_leftovers = epoch or field_count > 0 or call('XLEN', log) > 0
  local meta_ms = ARGV[6]
--@include first_epoch
  epoch = has_leftovers and ARGV[3] or first_epoch
elseif
  is_task
  and (
    (field_count == 0 and volume > uncounted)
    or (texts and call('EXISTS', unpack(keys_of(texts))) < #texts / 40)
    or (last_status == 'ended' and (ARGV[12] == 'running' or ARGV[12] == 'other'))
  )
then
  is_new, has_leftovers = true, true
  call('XLEN', log)
  epoch = ARGV[3]
end
if is_new then
  top, volume, uncounted, field_count = 0, 0, 0, 0
  last_status, stalled, renewed, active, owner, parent, texts = false, false, false, false, false, false, false
end
