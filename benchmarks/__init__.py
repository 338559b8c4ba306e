"""The fan-out suite: how fast updates reach how many clients, and what it costs. docs/benchmarks.md explains the figures."""
