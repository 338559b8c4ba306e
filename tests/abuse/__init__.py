"""Abuse of a real relay by its clients, beside a bystander that receives 20 updates a second: ``python -m tests.abuse``.

Each abuse runs for some seconds in a process of its own. The run fails when the bystander's 99th percentile is 100 ms or more,
when it misses an update, or when the relay's memory passes `MAX_MEMORY`.
"""

#: Milliseconds within which 99 of 100 updates must reach the bystander.
MAX_P99 = 100.0

#: Resident bytes of a relay under any of these abuses; docs/deploy.md has the same figure.
MAX_MEMORY = 256 * 1024 * 1024
