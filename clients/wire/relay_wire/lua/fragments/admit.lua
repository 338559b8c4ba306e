-- Ends the script with an error, and before any write, where the update exceeds a limit or its options contradict the task.
--@include state_limits
if refusal then
  return redis.error_reply(refusal)
end
--@include checks
if options_refusal then
  return redis.error_reply(options_refusal)
end
