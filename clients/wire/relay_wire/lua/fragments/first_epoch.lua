-- first_epoch: the epoch of a channel that has no history. Readers and the first publish compute the same one, so that reading
-- writes nothing and a position at offset 0 can be resumed from.
--
-- It is another one after Redis lost its memory (`name`, of the generation), after a failover (the replication id), and for a
-- channel that begins again after its numbers expired (the period: half of `meta_ms`, for which numbers are kept).
local info = redis.pcall('INFO', 'replication')
local replication_id = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or ''
local period = math.floor(now / (meta_ms / 2))
local first_epoch = string.sub(redis.sha1hex(KEYS[1] .. ' ' .. name .. ' ' .. replication_id .. ' ' .. period), 1, 12)
