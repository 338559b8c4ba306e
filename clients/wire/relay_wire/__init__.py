"""The wire contract: what Relay's server and its clients must agree on.

Importing this package or its modules has no side effects: scripts are read from disk on first use.
"""

__version__ = "0.1.0"
