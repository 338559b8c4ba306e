-- Publishes one update; see publish.
--
-- Set by the script, as KEYS and ARGV: what publish takes.
--@include arguments
--@include clock
--@include channel
-- The idempotency key, if there is one.
local written_key = ARGV[18] ~= '0' and KEYS[#KEYS]
local key_ms, fingerprint
if written_key then
  key_ms, fingerprint = string.match(ARGV[18], '^(%d+)(.*)$')
  local known = call('GET', written_key)
  if known then
    local known_epoch, known_offset, truncated, known_fingerprint = string.match(known, '^(%S+) (%d+)(!?)(.*)$')
    if not known_epoch then
      return redis.error_reply('WRONGTYPE ' .. written_key .. ' does not hold a position')
    end
    if known_fingerprint ~= fingerprint and known_fingerprint ~= '' and fingerprint ~= '' then
      return redis.error_reply('KEYREUSED the idempotency key was used for another update')
    end
    -- A write, however small: without one WAIT on this connection would have nothing to wait for.
    call('PEXPIRE', written_key, key_ms)
    return { known_epoch, tonumber(known_offset), 1, 0, truncated == '!' and 1 or 0 }
  end
end
local first_field, is_update, is_stall_mark = 19, true, false
local next_top = tostring(top + 1)
--@include operations
--@include admit
if written_key then
  call('SET', written_key, epoch .. ' ' .. next_top .. (is_truncated and '!' or '') .. fingerprint, 'PX', key_ms)
end
--@include apply
return { epoch, offset, 0, 0, is_truncated and 1 or 0 }
