"""Queues whose libraries or brokers are heavy. `make test-integrations` runs their stories, each in an environment of its own."""
