"""The Lua scripts that server and clients share: one file for each purpose, put together from fragments on first use."""

import re
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple

_INCLUDE = re.compile(r"^--@include (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^ *--(?!@include ).*\n", re.MULTILINE)


class Script(NamedTuple):
    """A Lua script.

    Attributes:
        source: Its text, for ``EVAL`` and ``SCRIPT LOAD``.
        sha: The hexadecimal SHA-1 digest of the source, for ``EVALSHA``.
    """

    source: str
    sha: str

    @classmethod
    def of(cls, source: str) -> "Script":
        """Return the script that has this source."""
        return cls(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


@cache
def load(name: str) -> Script:
    """Return a script of this package.

    Each line ``--@include <fragment>`` stands for ``lua/fragments/<fragment>.lua``; lines that are comments are left out.

    Args:
        name: The file's name in ``relay_wire/lua``, without ``.lua``.

    Raises:
        FileNotFoundError: There is no such script, or it includes a fragment that does not exist.
    """
    directory = files("relay_wire").joinpath("lua")

    def read(path: str) -> str:
        text = _COMMENT.sub("", directory.joinpath(path).read_text("utf-8"))
        return _INCLUDE.sub(lambda line: read(f"fragments/{line[1]}.lua").rstrip("\n"), text)

    return Script.of(read(f"{name}.lua"))
