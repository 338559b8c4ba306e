-- entries: what came after the position in ARGV, or false. How much that is, is known from the first of them.
local offset, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local entries = false
if ARGV[1] == epoch and offset >= 0 and offset <= top and top - offset <= limit then
  entries = {}
  if offset < top then
    local start = string.format('%.0f-0', offset + 1)
    local first = redis.call('XRANGE', KEYS[2], start, '+', 'COUNT', 1)[1]
    -- All of them or none: the oldest may have gone by count or by age.
    local size = 128 * (top - offset)
    if first then
      size = size + volume - tonumber(string.match(first[1], '%d+$')) + #first[2][6]
    end
    if not first or size > tonumber(ARGV[4]) then
      entries = false
    else
      for _, entry in ipairs(redis.call('XRANGE', KEYS[2], start, '+')) do
        entries[#entries + 1] = string.match(entry[1], '^%d+')
        entries[#entries + 1] = entry[2][4]
        entries[#entries + 1] = entry[2][6]
      end
      if #entries ~= 3 * (top - offset) then
        entries = false
      end
    end
  end
end
