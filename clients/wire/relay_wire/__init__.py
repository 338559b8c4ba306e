"""The wire contract: what Relay's server and its clients must agree on.

Importing this package or its modules has no side effects: scripts are read from disk on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("trio-relay-wire")
    raise AttributeError(f"module 'relay_wire' has no attribute {name!r}")
