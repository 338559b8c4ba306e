"""Fault injection on real processes: does every update arrive once and in order, or is the client told about the gap?

`python -m tests.faults --seed 1 --faults 200` starts a Valkey, two relays, and proxies in front of all of them. Publishers
number their updates, and clients resume after each lost connection. The run injects one fault after another and counts what
the clients receive.
"""
