-- Where one task stands, its state, its owner and its parent, and whether its end was requested.
--
-- KEYS  1 meta   2 log   3 state
-- Returns epoch and top (false where there is none), state (flat), owner (a JSON array of texts, or false), parent, and why its end was
-- requested (false where it was not).
local epoch, top, owner, parent, cancel = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'top', 'owner', 'parent', 'cancel'))
--@include state
return { epoch, top, fields, owner, parent, cancel }
