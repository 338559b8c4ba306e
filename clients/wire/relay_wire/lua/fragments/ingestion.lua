-- Records one plain message, unless this occurrence of it was recorded before; see ingest.
--
-- Set by the script, as KEYS and ARGV: what ingest takes.
--@include arguments
--@include clock
--@include channel
local first_field, is_update, is_stall_mark = 21, true, false
local digest_key = KEYS[#KEYS]
local next_top, written_key = tostring(top + 1), nil
--@include occurrence
--@include operations
--@include admit
--@include apply
call('SET', digest_key, recorded, 'PX', ARGV[18])
return { epoch, offset, 0, before, is_truncated and 1 or 0 }
