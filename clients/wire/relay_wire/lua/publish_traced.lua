-- Publishes one update as publish does, with its trace context.
--
-- Takes besides what publish takes:
-- ARGV  the last: the trace context, see arguments
ARGV.trace = table.remove(ARGV)
--@include publication
