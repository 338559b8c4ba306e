"""The versions of Hypercorn whose internals were read and are tested."""

from functools import cache
from importlib import metadata

#: By major and minor version, what is known of each. Others are served on plain ASGI.
VERIFIED_VERSIONS = {
    "0.17": "0.17.3: the same chain and the same names as 0.18",
    "0.18": "0.18.0: answers bytes that follow a handshake too early with a 400 of its own, upon which h11 raises",
}


@cache
def is_verified() -> bool:
    """Whether the installed Hypercorn is one of `VERIFIED_VERSIONS`."""
    return metadata.version("hypercorn").rpartition(".")[0] in VERIFIED_VERSIONS
