"""API keys of services: long random texts, of which the relay knows only the hashes and what each may do.

An entry of the settings is ``NAME:SHA256:SCOPES``, for instance ``ci:9f86d0…:publish:prefix:order-7/ watch:owned``. The scopes
are in the compact form of `relay.core.grant_claims`. Several entries may have one name, as while a key is replaced.
"""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest

from relay.core.errors import BadGrant
from relay.core.grant_claims import read_compact
from relay.core.grants import Grant

#: What every key begins with: it distinguishes keys from tokens, and lets scanners find keys that were published by mistake.
PREFIX = "relay_"

#: Random bytes of a key. A hash without a salt or a cost is enough for what nobody can guess.
_RANDOM_BYTES = 32

#: Longest text that is hashed.
_MAX_LENGTH = 256

#: Most keys, since each is compared with what a client shows.
MAX_KEYS = 1000

_is_name = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_is_digest = re.compile(r"[0-9a-fA-F]{64}").fullmatch


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key.

    Attributes:
        digest: The SHA-256 of the key.
        grant: What its bearer may do; the grant's subject is ``key:NAME``.
    """

    digest: bytes
    grant: Grant


class ApiKeys:
    """The keys that a relay accepts."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key: str) -> Grant | None:
        """Return the grant of a key; None if there is no such key.

        How long it takes depends neither on which key it is nor on how much of a key is right.
        """
        text = key.encode("utf-8", "surrogatepass")
        digest = sha256(text[:_MAX_LENGTH]).digest() if len(text) <= _MAX_LENGTH else b""
        found = None
        for known in self._keys:
            if compare_digest(known.digest, digest):
                found = known.grant
        return found


def read_entry(entry: str) -> ApiKey:
    """Read an entry of the settings.

    Raises:
        BadGrant: It is malformed. The message says how, and has nothing in it that may be secret.
    """
    name, _, rest = entry.partition(":")
    digest, _, scopes = rest.partition(":")
    if not _is_name(name) or name.startswith(PREFIX):  # or it is a key, put where its entry belongs
        raise BadGrant(
            "the entry of an API key begins with its name, of 1 to 64 letters, digits, dots, dashes and underscores, and "
            "a colon; `relay key create` prints the entry"
        )
    if not _is_digest(digest):
        raise BadGrant(
            f"API key {name!r}: after the name comes the SHA-256 of the key in 64 hexadecimal digits, not the key itself; "
            "`relay key create` prints the entry"
        )
    if not scopes.strip():
        raise BadGrant(f"API key {name!r}: it has no scopes, such as publish:all or publish:prefix:order-7/")
    try:
        return ApiKey(bytes.fromhex(digest), Grant(read_compact(scopes), subject=f"key:{name}"))
    except BadGrant as error:
        raise BadGrant(f"API key {name!r}: {error}") from None


def read_keys(text: str, separators: str = ";\n") -> list[ApiKey]:
    """Read the entries of a setting or a file. Lines that begin with ``#`` are comments.

    Args:
        text: The entries.
        separators: Characters that separate entries.

    Raises:
        BadGrant: An entry is malformed, or there are too many.
    """
    entries = [entry.strip() for entry in re.split(f"[{separators}]", text)]
    keys = [read_entry(entry) for entry in entries if entry and not entry.startswith("#")]
    if len(keys) > MAX_KEYS:
        raise BadGrant(f"there are {len(keys)} API keys; at most {MAX_KEYS} are allowed")
    return keys


def create_key(name: str, scopes: str) -> tuple[str, str]:
    """Make a key.

    Args:
        name: Names the key in settings and logs.
        scopes: What it is for, in the compact form.

    Returns:
        The key, and its entry for the settings.

    Raises:
        BadGrant: The name or a scope is malformed.
    """
    key = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    entry = f"{name}:{sha256(key.encode()).hexdigest()}:{scopes}"
    read_entry(entry)
    return key, entry
