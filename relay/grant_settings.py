"""The settings of grants: which tokens hold, who is asked instead, and what clients may do that show none."""

from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, FiniteFloat, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from relay.core.errors import BadGrant
from relay.core.grant_claims import read_setting

#: Algorithms of signatures that tokens may have; the kind of a key decides which of them it can be used with.
ALGORITHMS = ("HS256", "RS256", "PS256", "ES256", "EdDSA")

#: Shortest secret of HS256, in bytes (RFC 7518 section 3.2): a shorter one can be guessed from a single token.
MIN_SECRET = 32

_YEAR = 366 * 86_400


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL that begins with https:// or http://")
    if parts.username or parts.password:
        raise ValueError("must have no user or password in it")
    return url


class GrantSettings(BaseSettings):
    """Settings of grants; `relay.config.Settings` has them among all others. Times are in seconds."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    jwt_secret: SecretStr | None = Field(
        None, description="secret with which tokens are signed by HS256, of at least 32 bytes"
    )
    jwt_keys: Path | None = Field(
        None,
        description="file with the public keys of tokens: PEM, or a JWKS, which may have secrets for HS256 too; read again "
        "when it changes",
    )
    jwks_url: str | None = Field(None, description="URL of a JWKS with the public keys of tokens")
    jwks_max_age: FiniteFloat = Field(
        300.0,
        ge=1,
        le=_YEAR,
        description="how long the keys of `RELAY_JWKS_URL` are used before they are fetched again",
    )
    jwt_algorithms: Annotated[tuple[str, ...], NoDecode] = Field(
        ALGORITHMS, description="algorithms that tokens may be signed with"
    )
    jwt_issuer: str | None = Field(None, description="the `iss` that tokens must have")
    jwt_audience: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="the `aud` of which tokens must have one, separated by commas; without it none may have one"
    )
    jwt_leeway: FiniteFloat = Field(
        5.0, ge=0, le=300, description="how far the clock of the tokens' issuer may be ahead, for `nbf` and `iat`"
    )
    jwt_require_exp: bool = Field(True, description="refuse tokens without `exp`")
    token_notice: FiniteFloat = Field(
        60.0, gt=0, le=_YEAR, description="how long before a client's grant ends it is notified"
    )
    share_ttl: int = Field(
        86_400,
        ge=0,
        le=_YEAR,
        description="how long a share link holds at most; 0 turns share links off (docs/grants.md)",
    )
    share_key: Path | None = Field(
        None,
        description="file with a private key in PEM, by which share links are signed; without it they are signed with "
        "`RELAY_JWT_SECRET`",
    )
    revocation_ttl: int = Field(
        7 * 86_400,
        ge=1,
        le=10 * _YEAR,
        description="how long a revocation is remembered; at least as long as the longest-lived token is valid",
    )
    authorize_url: str | None = Field(
        None, description="URL that is asked for a client's grant, with the client's cookies and authorization header"
    )
    authorize_timeout: FiniteFloat = Field(3.0, gt=0, le=60, description="deadline of such a request")
    authorize_concurrency: int = Field(32, ge=1, le=1000, description="such requests at a time")
    authorize_cache: FiniteFloat = Field(
        10.0, ge=0, le=3600, description="how long an answer counts for the same cookies and header"
    )
    authorize_ttl: FiniteFloat = Field(
        3600.0, ge=1, le=_YEAR, description="how long a grant counts whose answer has neither `exp` nor `expires_in`"
    )
    anonymous: str | None = Field(
        None, description="what clients may do that show no token, such as `watch:prefix:public/`"
    )

    @field_validator("jwt_secret")
    @classmethod
    def _is_long(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value().encode()) < MIN_SECRET:
            raise ValueError(f"must have at least {MIN_SECRET} bytes; make one with: openssl rand -base64 48")
        return secret

    @field_validator("jwt_keys", "share_key")
    @classmethod
    def _is_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError("no such file")
        return path

    @field_validator("jwks_url", "authorize_url")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        return None if url is None else _checked_url(url)

    @field_validator("jwt_algorithms")
    @classmethod
    def _are_known(cls, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        for algorithm in algorithms:
            if algorithm not in ALGORITHMS:
                raise ValueError(f"{algorithm[:32]!r} is none of {', '.join(ALGORITHMS)}")
        if not algorithms:
            raise ValueError(f"name at least one of {', '.join(ALGORITHMS)}")
        return algorithms

    @field_validator("anonymous")
    @classmethod
    def _is_grant(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                read_setting(text)
            except BadGrant as error:
                raise ValueError(str(error)) from None
        return text

    @model_validator(mode="after")
    def _check_secret(self) -> Self:
        if self.jwt_secret is not None and "HS256" not in self.jwt_algorithms:
            raise ValueError("jwt_secret: does nothing while RELAY_JWT_ALGORITHMS has no HS256")
        if self.share_ttl > self.revocation_ttl:
            raise ValueError("share_ttl: must be at most RELAY_REVOCATION_TTL, or a revoked link could hold again")
        return self

    @property
    def has_tokens(self) -> bool:
        """Whether tokens are checked here, rather than by asking somebody."""
        keys = (self.jwt_secret, self.jwt_keys, self.jwks_url, self.share_key)
        return any(key is not None for key in keys)

    @property
    def has_grants(self) -> bool:
        """Whether clients need a grant. Otherwise every client may do everything."""
        return self.has_tokens or self.authorize_url is not None or self.anonymous is not None


#: Settings that are lists in one text, separated by commas.
LISTS = ("jwt_algorithms", "jwt_audience")


def split(value: object) -> Any:
    """Return the parts of a text that are separated by commas; any other value as it is."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
