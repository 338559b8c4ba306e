-- Makes a plain PUBLISH durable as ingest does, with its trace context.
--
-- Takes besides what ingest takes:
-- ARGV  the last: the trace context, see arguments
ARGV.trace = table.remove(ARGV)
--@include ingestion
