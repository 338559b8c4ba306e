-- refusal: the error for an update that would make the state of a task larger than its bounds, or nil. `first_field` is the
-- place of the first field in ARGV.
--
-- An upper bound of the state's size costs nothing: the volume, less what is known not to be in the state (`uncounted`). Only
-- where that is too large the state is counted.
--
-- What is appended to texts and lists is left out where only that is too large.
local last_uncounted = uncounted
if has_fields and not refusal then
  local max_size = tonumber(ARGV[10])
  local most_fields = field_count + (#ARGV - first_field + 1) / 2
  if volume - uncounted + #data > max_size or (most_fields > 64 and most_fields > tonumber(ARGV[11])) then
    local max_fields = tonumber(ARGV[11])
    local lengths, fields, size = {}, 0, 0
    local known = is_new and {} or call('HGETALL', state)
    for i = 1, #known, 2 do
      lengths[known[i]] = string.byte(known[i + 1]) == 43 and call('STRLEN', text_key(known[i])) + 1 or #known[i + 1]
    end
    local flat = values or ARGV
    for i = values and 1 or first_field, #flat, 2 do
      lengths[flat[i]] = new_lengths and new_lengths[flat[i]] or #flat[i + 1]
    end
    for name, length in pairs(lengths) do
      fields = fields + 1
      size = size + #name + length + 4 -- quotes, colon, comma
    end
    -- 17 bytes for the note that something was left out.
    if size > max_size and appends and #appends > 0 and size - appended_size + 17 <= max_size and leave_out_appends() then
      size = size - appended_size + 17
    elseif size > max_size then
      refusal = 'STATETOOLARGE the state of the task would have ' .. size .. ' bytes; it may have ' .. max_size
        .. ' (RELAY_MAX_STATE_BYTES)'
    elseif fields > max_fields then
      refusal = 'STATETOOLARGE the state of the task would have ' .. fields .. ' fields; it may have ' .. max_fields
    end
    uncounted = volume + #data - size
  end
elseif is_task then
  uncounted = uncounted + #data
end
