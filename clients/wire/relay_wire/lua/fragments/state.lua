-- fields: the state of a task, with the texts that have grown in their places, see operations. KEYS[3] is its key.
local fields = redis.call('HGETALL', KEYS[3])
for i = 2, #fields, 2 do
  if string.byte(fields[i]) == 43 then
    local text = redis.call('GET', string.sub(KEYS[3], 1, -6) .. redis.sha1hex(fields[i - 1]) .. ':text')
    fields[i] = text and text .. (fields[i] == '+"' and '"' or ']') or fields[i]
  end
end
