"""Grants for the users of a backend: signed tokens by which Relay lets a user see these tasks and no others.

Needs the extra ``grants`` (PyJWT). A token is made without I/O, so the same class serves threads, asyncio and Trio::

    grants = Grants(os.environ["RELAY_JWT_SECRET"])
    token = grants.watch("order-7", subject="user:7", ttl=900)
"""

import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from relay_client.errors import RelayClientError

try:
    import jwt
except ImportError as error:
    raise ImportError("relay_client.grants needs PyJWT: pip install 'trio-relay-client[grants]'") from error

#: Seconds for which a token holds unless its caller says otherwise.
DEFAULT_TTL = 900.0

#: Shortest secret, in bytes: as long as the hash of HS256 (RFC 7518 section 3.2).
MIN_SECRET_BYTES = 32

#: What a scope may be for.
VERBS = frozenset({"watch", "list", "publish", "cancel", "revoke"})

ALGORITHMS = ("HS256", "RS256", "PS256", "ES256", "EdDSA")


class GrantError(RelayClientError):
    """A grant cannot be made as it was asked for."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The tasks and channels that a token allows something for.

    Attributes:
        tasks: Ids of tasks.
        prefixes: Beginnings of task ids, such as ``order-7/``.
        owned: Tasks whose owner is the token's subject or one of its groups.
        general: General updates.
        channels: Names of channels of RELAY_EXTRA_CHANNELS.
        everything: All of these.
    """

    tasks: Collection[str | int] = ()
    prefixes: Collection[str] = ()
    owned: bool = False
    general: bool = False
    channels: Collection[str] = ()
    everything: bool = False

    def claim(self) -> dict[str, Any]:
        """Return the scope as it stands in a token.

        Raises:
            GrantError: It allows nothing, or has an empty name or prefix.
        """
        lists = {"tasks": self.tasks, "prefixes": self.prefixes, "channels": self.channels}
        claim: dict[str, Any] = {}
        for key, names in lists.items():
            if isinstance(names, str):
                raise GrantError(f"{key} must be a list of names, not the text {names!r}")
            if values := [str(name) for name in names]:
                claim[key] = values
                if "" in values:
                    raise GrantError(f"{key} has an empty name; use everything=True to allow all")
        flags = {"owned": self.owned, "general": self.general, "all": self.everything}
        claim |= {key: True for key, value in flags.items() if value}
        if not claim:
            raise GrantError("the scope allows nothing: name tasks or prefixes, or set owned, general or everything")
        return claim


class Grants:
    """Makes tokens for the users of a backend.

    Args:
        key: The secret that Relay has as RELAY_JWT_SECRET, or a private key in PEM form.
        algorithm: How tokens are signed: HS256 with a secret; RS256, PS256, ES256 or EdDSA with a private key.
        key_id: The ``kid`` of the key, where Relay knows several.
        issuer: The ``iss`` that Relay expects, if it expects one.
        audience: The ``aud`` that Relay expects, if it expects one.
        ttl: How long tokens hold unless a call says otherwise, in seconds or as a timedelta.

    Raises:
        GrantError: The key does not fit the algorithm.
    """

    def __init__(
        self,
        key: str | bytes,
        *,
        algorithm: str = "HS256",
        key_id: str | None = None,
        issuer: str | None = None,
        audience: str | None = None,
        ttl: float | timedelta = DEFAULT_TTL,
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise GrantError(f"unknown algorithm {algorithm!r}; use one of {', '.join(ALGORITHMS)}")
        is_pem = b"-----BEGIN" in (key.encode() if isinstance(key, str) else key)
        if is_pem == (algorithm == "HS256"):
            raise GrantError(
                "the key is a PEM file: name its algorithm, such as algorithm='ES256'"
                if is_pem
                else f"{algorithm} needs a private key in PEM form"
            )
        if algorithm == "HS256" and len(key) < MIN_SECRET_BYTES:
            raise GrantError(
                f"the secret must have at least {MIN_SECRET_BYTES} bytes; make one with `openssl rand -hex 32`"
            )
        self._algorithm = algorithm
        self._headers = {} if key_id is None else {"kid": key_id}
        self._common = {name: value for name, value in (("iss", issuer), ("aud", audience)) if value is not None}
        self._ttl = _seconds(ttl)
        try:
            self._key = jwt.get_algorithm_by_name(algorithm).prepare_key(key)
            jwt.encode({}, self._key, algorithm)  # a public key cannot
        except (jwt.PyJWTError, AttributeError, TypeError, ValueError) as error:  # whose text may quote the key
            raise GrantError(f"the key cannot be used for {algorithm}: {type(error).__name__}") from None

    def __repr__(self) -> str:
        return f"Grants(algorithm={self._algorithm!r})"

    def watch(
        self,
        *task_ids: str | int,
        prefixes: Collection[str] = (),
        owned: bool = False,
        general: bool = False,
        channels: Collection[str] = (),
        listed: bool = False,
        subject: str | None = None,
        groups: Collection[str] = (),
        ttl: float | timedelta | None = None,
    ) -> str:
        """Make a token with which a user may watch tasks.

        Args:
            task_ids: Ids of tasks.
            prefixes: Beginnings of task ids, such as ``order-7/``.
            owned: Include tasks whose owner is `subject` or one of `groups`.
            general: Include general updates.
            channels: Names of channels of RELAY_EXTRA_CHANNELS.
            listed: The user may also find these tasks in the list of tasks.
            subject: The user, as the backend calls it: for ownership, limits per user, and revocation.
            groups: Groups that the user belongs to.
            ttl: How long the token holds, in seconds or as a timedelta.

        Raises:
            GrantError: The token would allow nothing, or hold for no time.
        """
        scope = Scope(task_ids, prefixes, owned, general, channels)
        scopes = {"watch": scope, "list": scope} if listed else {"watch": scope}
        return self.token(scopes, subject=subject, groups=groups, ttl=ttl)

    def token(
        self,
        scopes: Mapping[str, Scope],
        *,
        subject: str | None = None,
        groups: Collection[str] = (),
        ttl: float | timedelta | None = None,
    ) -> str:
        """Make a token.

        Args:
            scopes: What the token allows, by verb: ``watch``, ``list``, ``publish``, ``cancel``, ``revoke``.
            subject: The user or service, as the backend calls it.
            groups: Groups that it belongs to.
            ttl: How long the token holds, in seconds or as a timedelta.

        Raises:
            GrantError: The token would allow nothing, or hold for no time.
        """
        if unknown := scopes.keys() - VERBS:
            raise GrantError(f"unknown verb {min(unknown)!r}; use one of {', '.join(sorted(VERBS))}")
        if not scopes:
            raise GrantError("the token allows nothing: give at least one scope")
        if isinstance(groups, str):
            raise GrantError(f"groups must be a list of names, not the text {groups!r}")
        if any(scope.owned for scope in scopes.values()) and subject is None and not groups:
            raise GrantError("owned tasks are those of the subject or its groups: give one")
        return self.sign({verb: scope.claim() for verb, scope in scopes.items()}, subject, list(groups), ttl)

    def sign(
        self,
        relay: Mapping[str, Any],
        subject: str | None = None,
        groups: list[str] | None = None,
        ttl: float | timedelta | None = None,
    ) -> str:
        """Make a token from the claim ``relay`` as it is documented, which is not checked here.

        Args:
            relay: The claim.
            subject: The claim ``sub``.
            groups: The claim ``groups``.
            ttl: How long the token holds, in seconds or as a timedelta.
        """
        now = time.time()
        seconds = self._ttl if ttl is None else _seconds(ttl)
        claims = {**self._common, "iat": int(now), "exp": int(now + seconds), "jti": secrets.token_urlsafe(12)}
        claims |= {"sub": subject} if subject is not None else {}
        claims |= {"groups": groups} if groups else {}
        return jwt.encode({**claims, "relay": dict(relay)}, self._key, self._algorithm, self._headers)


def _seconds(ttl: float | timedelta) -> float:
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else float(ttl)
    if not 1 <= seconds < 1e10:
        raise GrantError("ttl must be at least one second")
    return seconds
