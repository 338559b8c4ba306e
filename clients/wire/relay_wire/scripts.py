"""The Lua scripts that server and clients share, read from this package on first use."""

from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A Lua script and the digest that ``EVALSHA`` takes."""

    source: str
    sha: str

    @classmethod
    def of(cls, source: str) -> "Script":
        """Make a script of its source."""
        return cls(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


@cache
def load(name: str) -> Script:
    """Return the script ``<name>.lua`` of this package."""
    return Script.of(files("relay_wire").joinpath(f"{name}.lua").read_text())
