-- Where one task stands, its state, its owner and its parent.
--
-- KEYS  1 meta   2 log   3 state
-- Returns epoch and top (false where there is none), state (flat), owner (a JSON array of texts, or false), parent.
local epoch, top, owner, parent = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'top', 'owner', 'parent'))
--@include state
return { epoch, top, fields, owner, parent }
