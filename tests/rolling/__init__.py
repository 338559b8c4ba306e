"""A rolling update: two relays of an older version are replaced one by one by this version, and by the older one again.

`python -m tests.rolling --since v0.1.0` builds the wheels of both, and starts a Valkey, two relays, publishers and clients.
Every client must receive every update once and in order, whichever versions run side by side.
"""
