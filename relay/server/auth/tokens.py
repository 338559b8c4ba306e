"""Tokens: a JSON Web Token in, a grant out. PyJWT verifies the signature; everything else is decided here."""

from binascii import a2b_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from time import time
from typing import Any

import msgspec
from jwt.algorithms import get_default_algorithms

from relay.core.closecodes import Close
from relay.core.errors import BadGrant, Unauthenticated
from relay.core.grant_claims import read_claims, read_seconds
from relay.core.grants import Grant
from relay.server.auth.token_keys import TokenKey

#: Longest token, in characters. Proxies refuse longer headers.
MAX_TOKEN = 8192

#: Pairs of an algorithm and a key's name in tokens that are remembered.
_MAX_CHECKS = 256

#: Verified tokens that are remembered, and their characters in all.
MAX_REMEMBERED = 16_384
MAX_REMEMBERED_LENGTH = 16 * 1024 * 1024

#: PyJWT's own verification of signatures. Its `decode` around it takes three times as long, and parses each token twice.
_ALGORITHMS = get_default_algorithms()

#: Returns whether a signature, the second argument, is that of a message.
_Check = Callable[[bytes, bytes], bool]


def _check_of(key: TokenKey, algorithm: str) -> _Check:
    """Return what checks signatures by one of the algorithms of a key."""
    verify = _ALGORITHMS[algorithm].verify
    return lambda message, signature: bool(verify(message, key.key, signature))


_json_object = msgspec.json.Decoder(dict[str, Any]).decode


@lru_cache(256)
def _header_of(segment: str) -> dict[str, Any]:
    """Return the header of a token, which it shares with all others that were signed with the same key.

    Raises:
        ValueError: It is no base64url. So does msgspec.DecodeError, if it is no JSON object.
    """
    return _json_object(_decoded(segment))


#: From base64url to base64. What only base64 has becomes what neither has.
_BASE64 = bytes.maketrans(b"-_+/=", b"+/!!!")

_PADDING = (b"", b"===", b"==", b"=")


def _decoded(segment: str) -> bytes:
    """Return what a part of a token says.

    Raises:
        ValueError: It is no base64url.
    """
    base64 = segment.encode("ascii").translate(_BASE64)
    return a2b_base64(base64 + _PADDING[len(base64) % 4], strict_mode=True)


def _invalid(code: str, message: str) -> Unauthenticated:
    return Unauthenticated(code, message, Close.INVALID_TOKEN)


class UnknownKey(Unauthenticated):
    """No key is known that has the name which the token gives: one may be published soon."""

    def __init__(self) -> None:
        super().__init__("unknown_key", "the token is signed with a key that is not known here", Close.INVALID_TOKEN)


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What tokens must have.

    Attributes:
        issuer: Their `iss`; None if it does not matter.
        audience: Of these `aud` must be one; if there are none, a token must have none.
        leeway: Seconds by which the issuer's clock may be ahead.
        requires_exp: Whether they must end.
    """

    issuer: str | None
    audience: Sequence[str]
    leeway: float
    requires_exp: bool


class TokenVerifier:
    """Verifies tokens, each text once: the same token costs a hash from then on.

    Args:
        keys: Returns the keys that hold now. When they change, `forget` is to be called.
        rules: What tokens must have.
        now: The time, in seconds of the Unix epoch.
        read: Reads the grant from a token's claims; raises BadGrant.
    """

    def __init__(
        self,
        keys: Callable[[], Sequence[TokenKey]],
        rules: TokenRules,
        now: Callable[[], float] = time,
        read: Callable[[Mapping[str, Any]], Grant] = read_claims,
    ) -> None:
        self._read_grant = read
        self._keys = keys
        self._rules = rules
        self._now = now
        self._known_checks: dict[tuple[str, str | None], list[_Check]] = {}
        self._remembered: dict[bytes, tuple[Grant, int]] = {}
        self._remembered_length = 0

    def __len__(self) -> int:
        return len(self._remembered)

    def forget(self) -> None:
        """Forget the tokens that were verified, and the keys that were used."""
        self._known_checks.clear()
        self._remembered.clear()
        self._remembered_length = 0

    def verify(self, token: str) -> Grant:
        """Return the grant of a token.

        Raises:
            UnknownKey: It names a key that is not known.
            Unauthenticated: It does not hold. The message says why.
        """
        if len(token) > MAX_TOKEN:
            raise _invalid("token_too_long", f"a token has {MAX_TOKEN} characters at most")
        digest = blake2b(token.encode("utf-8", "surrogatepass"), digest_size=32).digest()
        known = self._remembered.pop(digest, None)
        grant = self._read(token) if known is None else known[0]
        self._remember(digest, grant, len(token), is_new=known is None)
        if grant.expires_at is not None and grant.expires_at <= self._now():
            raise Unauthenticated("token_expired", "the token has expired; get a new one", Close.TOKEN_EXPIRED)
        return grant

    def _remember(self, digest: bytes, grant: Grant, length: int, *, is_new: bool) -> None:
        """Remember a token as the one that was used last."""
        self._remembered[digest] = grant, length
        if is_new:
            self._remembered_length += length
            while len(self._remembered) > MAX_REMEMBERED or self._remembered_length > MAX_REMEMBERED_LENGTH:
                _, oldest = self._remembered.pop(next(iter(self._remembered)))
                self._remembered_length -= oldest

    def _read(self, token: str) -> Grant:
        claims = self._verified_claims(token)
        try:
            grant = self._read_grant(claims)
            begins = read_seconds(claims, "nbf")
        except BadGrant as error:
            raise _invalid("bad_grant", str(error)) from None
        if grant.expires_at is None and self._rules.requires_exp:
            raise _invalid("token_without_exp", "the token has no `exp`, which this relay requires")
        latest = self._now() + self._rules.leeway
        if max(begins or 0.0, grant.issued_at or 0.0) > latest:
            raise Unauthenticated("token_not_yet_valid", "the token is not valid yet", Close.UNAUTHENTICATED)
        return grant

    def _verified_claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token with a valid signature, the right issuer and audience. Times are not checked."""
        signed, _, signature = token.rpartition(".")
        head, _, payload = signed.partition(".")
        try:
            header = _header_of(head)
            claims = _json_object(_decoded(payload))
            expected = _decoded(signature)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise _invalid("bad_token", "this is no JSON Web Token") from None
        if "crit" in header:
            raise _invalid("bad_token", "the token needs extensions of JWS that are not supported")
        checks = self._checks(header.get("alg"), header.get("kid"))
        message = signed.encode()
        for check in checks:
            if check(message, expected):
                self._check_parties(claims)
                return claims
        raise _invalid("bad_signature", "the token's signature is not valid")

    def _checks(self, algorithm: Any, kid: Any) -> list[_Check]:
        """Return how a signature is checked: with each key of the token's `kid`, or if it has none of its algorithm."""
        if not isinstance(algorithm, str) or not isinstance(kid, str | None):
            return [_check_of(key, algorithm) for key in self._candidates(algorithm, kid)]
        checks = self._known_checks.get((algorithm, kid))
        if checks is None:
            checks = [_check_of(key, algorithm) for key in self._candidates(algorithm, kid)]
            if len(self._known_checks) < _MAX_CHECKS:
                self._known_checks[algorithm, kid] = checks
        return checks

    def _candidates(self, algorithm: Any, kid: Any) -> list[TokenKey]:
        keys = self._keys()
        if kid is not None:
            named = [key for key in keys if key.kid == kid]
            # Keys without a name, such as RELAY_JWT_SECRET, are for tokens with any.
            keys = named or [key for key in keys if key.kid is None]
            if not keys:
                raise UnknownKey
        candidates = [key for key in keys if algorithm in key.algorithms]
        if not candidates:
            if kid is None and not keys:
                raise UnknownKey
            raise _invalid("bad_algorithm", "the token's algorithm is not one that this relay accepts")
        return candidates

    def _check_parties(self, claims: dict[str, Any]) -> None:
        """Check who made the token, and for whom."""
        rules = self._rules
        audience = claims.get("aud", ())
        audience = (audience,) if isinstance(audience, str) else audience
        if not isinstance(audience, list | tuple) or (audience and not rules.audience):
            raise _invalid("wrong_audience", "the token is for an audience, and RELAY_JWT_AUDIENCE is not set")
        if rules.audience and not any(name in audience for name in rules.audience):
            raise _invalid("wrong_audience", "the token is for another audience than RELAY_JWT_AUDIENCE")
        if rules.issuer is not None and claims.get("iss") != rules.issuer:
            raise _invalid("wrong_issuer", "the token is of another issuer than RELAY_JWT_ISSUER")
