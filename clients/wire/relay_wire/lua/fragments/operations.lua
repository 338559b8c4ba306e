-- Operations on fields: what is written to the state instead of the values in ARGV.
--
-- A value in ARGV is JSON text; with "+" before it, it is appended to the field's text or list, or added to its number; with "="
-- before it, it is what a publisher has marked as no operation. A text or a list that has grown is not kept in the state but as a
-- string of its own, to which Redis appends without copying: the JSON text without its last character. The state then has a
-- marker, '+"' or '+[', and texts in meta the digests of the names of such fields, 40 characters for each.
--
-- refusal: the error for an operation that does not suit its field, or nil.
--
-- Set before: first_field, and is_new by channel or creation. Sets values: field, value, ... for the state, or nil where ARGV
-- has them; appends; and for state_limits new_lengths and appended_size.
local max_texts = 32
local values, appends, new_lengths, appended_size
local has_fields, is_truncated = #ARGV >= first_field, false
local text_key, leave_out_appends, write_texts, refusal

if kind == 'task_delta' or texts then
  text_key = function(name)
    return string.sub(state, 1, -6) .. redis.sha1hex(name) .. ':text'
  end

  -- JSON text of a text or a list without its first and last character, and without the blanks within the brackets of a list.
  local function inner(json)
    local first, last = 2, #json - 1
    if string.byte(json) == 91 then
      while first <= last and string.find(json, '^%s', first) do
        first = first + 1
      end
      while first <= last and string.find(json, '^%s', last) do
        last = last - 1
      end
    end
    return string.sub(json, first, last)
  end

  -- The sum in the shortest form that means the same number.
  local function sum_of(old, delta)
    local sum = (tonumber(old) or 0) + tonumber(delta)
    if sum % 1 == 0 and math.abs(sum) < 2 ^ 53 then
      return string.format('%.0f', sum)
    elseif sum ~= sum or math.abs(sum) == math.huge then
      return nil
    end
    for precision = 15, 17 do
      local text = string.format('%.' .. precision .. 'g', sum)
      if tonumber(text) == sum then
        return text
      end
    end
  end

  local function type_of(json)
    local first = json and string.byte(json, string.byte(json) == 43 and 2 or 1)
    return first == 34 and 'a text' or first == 91 and 'a list' or (first == 45 or first and first >= 48 and first <= 57) and 'a number'
  end

  local function data_of(flat, as_sent)
    local parts = {}
    kind = 'task_update'
    for i = 1, #flat, 2 do
      local value = as_sent and as_sent[flat[i]] or flat[i + 1]
      if string.byte(value) == 43 then
        kind, value = 'task_delta', '{"$append":' .. string.sub(value, 2) .. '}'
      elseif string.byte(value) == 61 then
        kind, value = 'task_delta', '{"$set":' .. string.sub(value, 2) .. '}'
      end
      parts[#parts + 1] = cjson.encode(flat[i]) .. ':' .. value
    end
    return '{' .. table.concat(parts, ',') .. '}'
  end

  if kind == 'task_delta' then
    local as_sent, has_sums, count = {}, false, #(texts or '') / 40
    values, appends, new_lengths, appended_size = {}, {}, {}, 0
    for i = first_field, #ARGV, 2 do
      local name, value = ARGV[i], ARGV[i + 1]
      if string.byte(value) == 61 then
        as_sent[name] = value
        value = string.sub(value, 2)
      elseif string.byte(value) == 43 then
        local delta, old = string.sub(value, 2), not is_new and call('HGET', state, name)
        old = old and old ~= 'null' and old
        if old and type_of(old) ~= type_of(delta) then
          refusal = 'APPENDTYPE the field ' .. name .. ' is ' .. (type_of(old) or 'neither text, list nor number') .. '; '
            .. type_of(delta) .. ' cannot be appended to it'
          break
        end
        if type_of(delta) == 'a number' then
          value, has_sums = sum_of(old, delta), true
          if not value then
            refusal = 'APPENDTYPE the sum in the field ' .. name .. ' is no finite number'
            break
          end
        elseif not old then
          as_sent[name], value = value, delta
          appends[#appends + 1] = { name = name }
          appended_size = appended_size + #name + #delta + 4
        else
          local key, more, start = text_key(name), inner(delta), nil
          local length = call('STRLEN', key)
          if string.byte(old) ~= 43 then
            start = string.sub(old, 1, 1) .. inner(old)
            length, count = #start, count + 1
          end
          if string.byte(old, -1) ~= 34 and more ~= '' and length > 1 then
            more = ',' .. more
          end
          appends[#appends + 1] = { name = name, key = key, start = start, more = more }
          as_sent[name], value = value, '+' .. string.sub(delta, 1, 1)
          new_lengths[name] = length + #more + 1
          appended_size = appended_size + #more
        end
      end
      values[#values + 1] = name
      values[#values + 1] = value
    end
    if count > max_texts then
      refusal = 'APPENDTYPE a task has ' .. max_texts .. ' fields at most that texts or lists are appended to'
    end
    if has_sums and not refusal then
      data = data_of(values, as_sent)
    end
  end


  -- Leaves out what is appended, since the state has no room for it: the task says so, once. Returns whether anything is left.
  leave_out_appends = function()
    local left, names = {}, {}
    for _, each in ipairs(appends) do
      names[each.name] = true
    end
    for i = 1, #values, 2 do
      if not names[values[i]] then
        left[#left + 1] = values[i]
        left[#left + 1] = values[i + 1]
      end
    end
    if not call('HGET', meta, 'truncated') or is_new then
      left[#left + 1] = 'truncated'
      left[#left + 1] = 'true'
    end
    if #left == 0 then
      return false
    end
    values, appends, is_truncated = left, {}, true
    local as_sent = {}
    for i = first_field, #ARGV, 2 do
      if string.byte(ARGV[i + 1]) == 61 then
        as_sent[ARGV[i]] = ARGV[i + 1]
      end
    end
    data = data_of(values, as_sent)
    return true
  end

  -- Writes the texts that have grown, and removes those that were replaced. Returns whether one is new.
  write_texts = function()
    local new = false
    for _, each in ipairs(appends or {}) do
      if each.start then
        call('SET', each.key, each.start .. each.more)
        texts, new = (texts or '') .. redis.sha1hex(each.name), true
      elseif each.key then
        call('APPEND', each.key, each.more)
      end
    end
    local grown = {}
    for _, each in ipairs(appends or {}) do
      grown[each.name] = true
    end
    local flat, first = values or ARGV, values and 1 or first_field
    local before = texts
    for i = first, texts and #flat or 0, 2 do
      if not grown[flat[i]] then
        local digest = redis.sha1hex(flat[i])
        for place = 1, #texts, 40 do
          if string.sub(texts, place, place + 39) == digest then
            call('DEL', text_key(flat[i]))
            texts = string.sub(texts, 1, place - 1) .. string.sub(texts, place + 40)
            break
          end
        end
      end
    end
    if texts == '' then
      call('HDEL', meta, 'texts')
    elseif new or texts ~= before then
      call('HSET', meta, 'texts', texts)
    end
    return new
  end
end
