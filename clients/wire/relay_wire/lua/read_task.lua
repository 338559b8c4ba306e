-- Where one task stands, its state, its owner and its parent, whether its end was requested, and how often its id was used.
--
-- KEYS  1 meta   2 log   3 state
-- Returns epoch and top (false where there is none), state (flat), owner (a JSON array of texts, or false), parent, and why its end was
-- requested (false where it was not), run (false for the first run of this id).
local epoch, top, owner, parent, cancel, run =
  unpack(redis.call('HMGET', KEYS[1], 'epoch', 'top', 'owner', 'parent', 'cancel', 'run'))
--@include state
return { epoch, top, fields, owner, parent, cancel, run }
