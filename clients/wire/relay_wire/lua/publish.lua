-- Publishes one update durably: number it, keep it, fold it into the state, publish it. All or nothing.
--
-- Takes besides the shared arguments:
-- KEYS  the last: the idempotency key, if ARGV 18 is not 0
-- ARGV  18 ms for which the idempotency key is remembered, 0 without a key   19... field, value, ...
--
-- An idempotency key that was used before makes it the same update: its position is returned and nothing is published.
--@include arguments
--@include clock
--@include channel
local first_field, is_update, is_stall_mark = 19, true, false
local next_top = tostring(top + 1)
--@include operations
--@include state_limits
--@include checks
-- The idempotency key, if there is one.
local written_key = ARGV[18] ~= '0' and KEYS[#KEYS]
if written_key then
  local position = epoch .. ' ' .. next_top
  if refusal or not call('SET', written_key, position, 'NX', 'PX', ARGV[18]) then
    local known_epoch, known_offset = string.match(call('GET', written_key) or '', '^(%S+) (%d+)$')
    if known_epoch then
      -- A write, however small: without one WAIT on this connection would have nothing to wait for.
      call('PEXPIRE', written_key, ARGV[18])
      return { known_epoch, tonumber(known_offset), 1, 0, 0 }
    end
    return redis.error_reply(refusal or 'WRONGTYPE ' .. written_key .. ' does not hold a position')
  end
elseif refusal then
  return redis.error_reply(refusal)
end
--@include apply
return { epoch, offset, 0, 0, is_truncated and 1 or 0 }
