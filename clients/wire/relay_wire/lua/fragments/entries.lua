-- entries: what came after the position in ARGV, as much as fits into the limit in bytes, or false where the first of it is gone.
local offset, limit, max_bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local entries = false
if ARGV[1] == epoch and offset >= 0 and offset <= top and top - offset <= limit then
  entries = {}
  local size, count = 0, 1
  while offset < top and size < max_bytes do
    -- A few at a time, and one at first: how large they are is known when they are read.
    local some = redis.call('XRANGE', KEYS[2], string.format('%.0f-0', offset + 1), '+', 'COUNT', count)
    local last = offset
    for _, entry in ipairs(some) do
      -- The oldest may have gone, by count or by age.
      if tonumber(string.match(entry[1], '^%d+')) ~= last + 1 or size >= max_bytes then
        break
      end
      last = last + 1
      size = size + 128 + #entry[2][6]
      entries[#entries + 1] = string.format('%.0f', last)
      entries[#entries + 1] = entry[2][4]
      entries[#entries + 1] = entry[2][6]
    end
    if last == offset then
      entries = #entries > 0 and entries
      break
    end
    offset, count = last, math.min(2 * count, 16)
  end
end
