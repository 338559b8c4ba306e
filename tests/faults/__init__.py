"""Real faults on real processes: does every update arrive once and in order, or is a gap told?

`python -m tests.faults --seed 1 --faults 200` starts a Valkey, two relays, proxies between them and clients, publishers that
number their updates and clients that resume; then it breaks one thing after the other, and counts.
"""
