-- Publishes one update durably: number it, keep it, fold it into the state, publish it. All or nothing.
--
-- Takes besides the shared arguments:
-- KEYS  the last: the idempotency key, if ARGV 18 is not 0
-- ARGV  18 ms for which the idempotency key is remembered, 0 without a key; then perhaps a blank and a fingerprint
--       19... field, value, ...
--
-- An idempotency key that was used before makes it the same update: its position is returned and nothing is published. Where
-- both have a fingerprint, and another one, the key was used for something else, and that is an error.
--@include arguments
--@include clock
--@include channel
local first_field, is_update, is_stall_mark = 19, true, false
local next_top = tostring(top + 1)
--@include state_limits
--@include checks
-- The idempotency key, if there is one.
local written_key = ARGV[18] ~= '0' and KEYS[#KEYS]
if written_key then
  local key_ms, fingerprint = string.match(ARGV[18], '^(%d+)(.*)$')
  local position = epoch .. ' ' .. next_top .. fingerprint
  if refusal or not call('SET', written_key, position, 'NX', 'PX', key_ms) then
    local known_epoch, known_offset, known = string.match(call('GET', written_key) or '', '^(%S+) (%d+)(.*)$')
    if known_epoch then
      if known ~= fingerprint and known ~= '' and fingerprint ~= '' then
        return redis.error_reply('KEYREUSED the idempotency key was used for another update')
      end
      -- A write, however small: without one WAIT on this connection would have nothing to wait for.
      call('PEXPIRE', written_key, key_ms)
      return { known_epoch, tonumber(known_offset), 1, 0 }
    end
    return redis.error_reply(refusal or 'WRONGTYPE ' .. written_key .. ' does not hold a position')
  end
elseif refusal then
  return redis.error_reply(refusal)
end
--@include apply
return { epoch, offset, 0, 0 }
