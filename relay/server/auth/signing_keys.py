"""The key that the relay itself signs tokens with: only those of share links."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from relay.config import Settings
from relay.core.errors import ConfigError
from relay.server.auth.token_keys import BadKey, TokenKey, algorithms_of


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A key to sign with.

    Attributes:
        key: The key, as PyJWT takes it.
        algorithm: The algorithm.
        public: What verifies its signatures; None where that is RELAY_JWT_SECRET.
    """

    key: Any
    algorithm: str
    public: TokenKey | None = None

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a token with these claims."""
        headers = None if self.public is None else {"kid": self.public.kid}
        return jwt.encode(dict(claims), self.key, self.algorithm, headers)


def read_private_key(path: Path, algorithms: tuple[str, ...]) -> SigningKey:
    """Read a private key in PEM.

    Args:
        path: The file.
        algorithms: The algorithms that tokens may be signed with.

    Raises:
        BadKey: It cannot be used.
        OSError: The file cannot be read.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # whose texts may quote the file
        raise BadKey("the file has no private key in PEM without a password") from None
    public = key.public_key()
    usable = tuple(name for name in algorithms_of(public) if name in algorithms)
    if not usable:
        raise BadKey("RELAY_JWT_ALGORITHMS has none of the key's algorithms")
    # Its own name, by which no other token asks for it; the same on each relay that has the key.
    digest = sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    return SigningKey(key, usable[0], TokenKey(public, usable, f"relay-share-{digest[:16]}"))


def signing_key_of(settings: Settings) -> SigningKey | None:
    """Return the key that share links are signed with; None where none is configured.

    Raises:
        ConfigError: It cannot be used.
    """
    if settings.share_key is not None:
        try:
            return read_private_key(settings.share_key, settings.jwt_algorithms)
        except (BadKey, OSError) as error:
            raise ConfigError(f"RELAY_SHARE_KEY: {error}") from None
    if settings.jwt_secret is not None:
        return SigningKey(settings.jwt_secret.get_secret_value().encode(), "HS256")
    return None
