"""Tokens: a JSON Web Token in, a grant out. PyJWT verifies the signature; everything else is decided here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from time import time
from typing import Any

import msgspec
from jwt.algorithms import get_default_algorithms

from relay.core import base64url
from relay.core.closecodes import Close
from relay.core.errors import BadGrant, Unauthenticated
from relay.core.grant_claims import read_claims, read_seconds
from relay.core.grants import Grant
from relay.server.auth.remembered_tokens import RememberedTokens
from relay.server.auth.token_keys import TokenKey

#: Longest token, in characters. Proxies refuse longer headers.
MAX_TOKEN = 8192

#: Headers whose checks are remembered. A signer has one for each of its keys.
_MAX_HEADERS = 256

#: PyJWT's own verification of signatures. Its `decode` around it takes three times as long, and parses each token twice.
_ALGORITHMS = get_default_algorithms()

#: Returns whether a signature, the second argument, is that of a message.
_Check = Callable[[bytes, bytes], bool]


def _check_of(key: TokenKey, algorithm: str) -> _Check:
    """Return what checks signatures by one of the algorithms of a key."""
    verify = _ALGORITHMS[algorithm].verify
    return lambda message, signature: bool(verify(message, key.key, signature))


_json_object = msgspec.json.Decoder(dict[str, Any]).decode


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
        #: By the headers of tokens whose signature was valid, as they are written.
        self._checks_of_header: dict[bytes, list[_Check]] = {}
        self._remembered = RememberedTokens()

    def __len__(self) -> int:
        return len(self._remembered)

    def forget(self) -> None:
        """Forget the tokens that were verified, and the keys that were used."""
        self._checks_of_header.clear()
        self._remembered.clear()

    def verify(self, token: str) -> Grant:
        """Return the grant of a token.

        Raises:
            UnknownKey: It names a key that is not known.
            Unauthenticated: It does not hold. The message says why.
        """
        if len(token) > MAX_TOKEN:
            raise _invalid("token_too_long", f"a token has {MAX_TOKEN} characters at most")
        text = token.encode("utf-8", "surrogatepass")
        digest = blake2b(text, digest_size=32).digest()
        now = self._now()
        grant = self._remembered.find(digest, len(token))
        if grant is None:
            grant = self._read(text, now)
            self._remembered.add(digest, grant, len(token))
        if grant.expires_at is not None and grant.expires_at <= now:
            raise Unauthenticated("token_expired", "the token has expired; get a new one", Close.TOKEN_EXPIRED)
        return grant

    def _read(self, token: bytes, now: float) -> Grant:
        claims = self._verified_claims(token)
        try:
            grant = self._read_grant(claims)
            begins = read_seconds(claims, "nbf")
        except BadGrant as error:
            raise _invalid("bad_grant", str(error)) from None
        if grant.expires_at is None and self._rules.requires_exp:
            raise _invalid("token_without_exp", "the token has no `exp`, which this relay requires")
        if max(begins or 0.0, grant.issued_at or 0.0) > now + self._rules.leeway:
            raise Unauthenticated("token_not_yet_valid", "the token is not valid yet", Close.UNAUTHENTICATED)
        return grant

    def _verified_claims(self, token: bytes) -> dict[str, Any]:
        """Return the claims of a token with a valid signature, the right issuer and audience. Times are not checked."""
        signed, _, encoded_signature = token.rpartition(b".")
        header, _, payload = signed.partition(b".")
        try:
            checks = self._checks_of_header.get(header)
            is_new = checks is None
            if checks is None:
                checks = self._checks(_json_object(base64url.decode(header)))
            signature = base64url.decode(encoded_signature)
            for check in checks:
                if check(signed, signature):
                    break
            else:
                raise _invalid("bad_signature", "the token's signature is not valid")
            claims = _json_object(base64url.decode(payload))
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise _invalid("bad_token", "this is no JSON Web Token") from None
        # A header which anybody could write must not take the place of one.
        if is_new and len(self._checks_of_header) < _MAX_HEADERS:
            self._checks_of_header[header] = checks
        self._check_parties(claims)
        return claims

    def _checks(self, header: dict[str, Any]) -> list[_Check]:
        """Return how a signature is checked: with each key of the token's `kid`, or if it has none of its algorithm."""
        if "crit" in header:
            raise _invalid("bad_token", "the token needs extensions of JWS that are not supported")
        algorithm: Any = header.get("alg")
        return [_check_of(key, algorithm) for key in self._candidates(algorithm, header.get("kid"))]

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
        if "aud" in claims or rules.audience:
            self._check_audience(claims.get("aud", []))
        if rules.issuer is not None and claims.get("iss") != rules.issuer:
            raise _invalid("wrong_issuer", "the token is of another issuer than RELAY_JWT_ISSUER")

    def _check_audience(self, found: Any) -> None:
        expected = self._rules.audience
        audience = [found] if isinstance(found, str) else found
        if not isinstance(audience, list) or not all(isinstance(name, str) for name in audience):
            raise _invalid("wrong_audience", "the claim `aud` must be a text, or a list of texts")
        if audience and not expected:
            raise _invalid("wrong_audience", "the token is for an audience, and RELAY_JWT_AUDIENCE is not set")
        if expected and not any(name in audience for name in expected):
            raise _invalid("wrong_audience", "the token is for another audience than RELAY_JWT_AUDIENCE")
