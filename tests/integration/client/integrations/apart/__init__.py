"""Queues whose libraries or brokers are heavy. `make test-integrations` tests each of them in an environment of its own."""
