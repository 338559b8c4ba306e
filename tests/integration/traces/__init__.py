"""Traces: real relays, publishers and subscribers, whose spans a real receiver of OTLP over HTTP takes."""
