-- Makes several plain PUBLISHes durable, in order, each as ingest does; not on a cluster, where their keys may lie on several nodes.
--
-- KEYS  the first message's channel's meta
-- ARGV  1 a random epoch of 12 digits
--       2 history: entries   3 history: ms   4 meta: ms   5 state: ms   6 state of a task that has ended: ms
--       7 times to live are set again after so many ms   8 state: bytes   9 state: fields
--       10 ms for which digests are remembered
--       11 the messages, in MessagePack. Each is a list: its channel's meta, type, data, class of the status, owner, parent, digest,
--       occurrence, since when the caller counts, and field, value, ...; see arguments and ingest
-- Returns for each message how often it had been recorded before the caller began to count, or -1 less that number if this
-- occurrence of it had been recorded, or an error. An error of one message does not keep the others from being recorded.
local values = ARGV

-- The names hide those of the script: the fragments take their arguments from here.
local function ingest(KEYS, ARGV)
--@include ingestion
end

local answers = {}
for number, message in ipairs(cmsgpack.unpack(values[11])) do
  local meta = message[1]
  local name = string.sub(meta, 1, -6)
  local bucket, task_id = string.match(name, '^(relay:{%d+}:)task:(.*)$')
  bucket = bucket or string.match(name, '^relay:{%d+}:')
  local digest_key = meta .. ':digest:' .. message[7]
  local is_done, answer = pcall(
    ingest,
    task_id and {
      meta, name .. ':log', name .. ':state', bucket .. 'generation', bucket .. 'tasks', bucket .. 'running', digest_key,
    } or { meta, name .. ':log', name .. ':state', bucket .. 'generation', digest_key },
    {
      name, 'PUBLISH', string.sub(values[1], 1, 9) .. string.format('%03x', number),
      values[2], values[3], values[4], values[5], values[6], values[7], values[8], values[9],
      message[4], task_id or '', message[2], message[3], message[5], message[6],
      values[10], message[8], message[9] == 0 and '0' or message[9], unpack(message, 10),
    }
  )
  if not is_done and type(answer) ~= 'table' then
    -- Redis before version 7 gives the text alone.
    answer = { err = string.gsub(tostring(answer), '^@[^:]*: ?%d+: %-?', '') }
  end
  answers[number] = answer.err and { err = answer.err } or answer[3] == 0 and answer[4] or -1 - answer[4]
end
return answers
