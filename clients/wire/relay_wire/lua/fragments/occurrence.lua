-- Returns if this occurrence of a message was recorded before. Sets `before`, how often the message had been recorded when the
-- caller began to count, and `recorded`, the next value of the digest's key.
local count, times, before = 0, {}, 0
local known = call('GET', digest_key)
if known then
  for number in string.gmatch(known, '%d+') do
    times[#times + 1] = tonumber(number)
  end
  count = table.remove(times, 1) or 0
end
if ARGV[20] ~= '0' then
  local since = tonumber(ARGV[20])
  before = count
  for _, time in ipairs(times) do
    if time >= since then
      before = before - 1
    end
  end
end
if tonumber(ARGV[19]) + before <= count then
  return { epoch, top, 1, before, 0 }
end
times[#times + 1] = now
-- Those that a relay may still ask about; a key that is renewed all the time must not grow without a bound.
while #times > 256 or times[1] < now - tonumber(ARGV[18]) do
  table.remove(times, 1)
end
local recorded = (count + 1) .. ' ' .. table.concat(times, ' ')
