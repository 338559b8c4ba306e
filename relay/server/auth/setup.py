"""From the settings to an authenticator, and the tasks that it needs."""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from relay.broker.contract import RunCalls
from relay.config import Settings
from relay.core.connection_claims import read_connection_claims
from relay.core.errors import ConfigError
from relay.core.grant_claims import read_setting
from relay.core.grants import Grant
from relay.core.revocations import Revocations
from relay.server.auth.authorize_url import MAX_BYTES as MAX_AUTHORIZE_BYTES
from relay.server.auth.authorize_url import AuthorizeUrl
from relay.server.auth.grant_authenticator import GrantAuthenticator, Sources
from relay.server.auth.http_client import HttpClient
from relay.server.auth.jwks import MAX_BYTES as MAX_JWKS_BYTES
from relay.server.auth.jwks import TIMEOUT, JwksUrl
from relay.server.auth.key_file import KeyFile
from relay.server.auth.revocation_feed import RevocationFeed
from relay.server.auth.share_links import ShareLinks
from relay.server.auth.signing_keys import SigningKey, signing_key_of
from relay.server.auth.tickets import Tickets
from relay.server.auth.token_keys import BadKey, TokenKey, algorithms_of, limited
from relay.server.auth.tokens import TokenRules, TokenVerifier
from relay.server.cors import CorsPolicy


@dataclass(frozen=True, slots=True)
class GrantServices:
    """An authenticator, and what runs beside it.

    Attributes:
        authenticator: Reads the credentials of clients.
        share_links: Makes share links, where there is a key to sign them with.
        feed: Reads revocations.
        jwks: Fetches keys.
        key_file: Reads keys.
        clients: Connections to other servers.
    """

    authenticator: GrantAuthenticator
    share_links: ShareLinks | None
    feed: RevocationFeed
    jwks: JwksUrl | None
    key_file: KeyFile | None
    clients: tuple[HttpClient, ...]

    async def run(self) -> None:
        """Run the tasks of the authenticator until cancelled; then close its connections."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.feed.run)
                for keys in (self.jwks, self.key_file):
                    if keys is not None:
                        nursery.start_soon(keys.run)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                for client in self.clients:
                    await client.close()


def _share_links(settings: Settings, key: SigningKey | None) -> ShareLinks | None:
    if key is None or settings.share_ttl == 0:
        return None
    common = {"iss": settings.jwt_issuer, "aud": settings.jwt_audience[0] if settings.jwt_audience else None}
    return ShareLinks(key.sign, settings.share_ttl, {name: text for name, text in common.items() if text is not None})


def _fixed_keys(settings: Settings, signing: SigningKey | None) -> list[TokenKey]:
    """Return the keys that stay: RELAY_JWT_SECRET, and that of share links."""
    keys: list[TokenKey] = []
    if settings.jwt_secret is not None:
        secret = settings.jwt_secret.get_secret_value().encode()
        keys.append(TokenKey(secret, _algorithms_of_secret(secret)))
    if signing is not None and signing.public is not None:
        keys.append(signing.public)
    return limited(keys, settings.jwt_algorithms)


def _algorithms_of_secret(secret: bytes) -> tuple[str, ...]:
    try:
        return algorithms_of(secret)
    except BadKey as error:
        raise ConfigError(f"RELAY_JWT_SECRET: {error}") from None


def _key_file(settings: Settings, on_change: Callable[[], None]) -> KeyFile | None:
    """Return the keys of RELAY_JWT_KEYS.

    Raises:
        ConfigError: A key cannot be used.
    """
    if settings.jwt_keys is None:
        return None
    try:
        return KeyFile(settings.jwt_keys, settings.jwt_algorithms, on_change)
    except (BadKey, OSError) as error:
        raise ConfigError(f"RELAY_JWT_KEYS: {error}") from None


def set_up(
    settings: Settings,
    policy: CorsPolicy,
    revocations: Revocations,
    feed: RevocationFeed,
    run_client_calls: RunCalls,
) -> GrantServices:
    """Make an authenticator. It connects to nothing before its tasks run.

    Args:
        settings: What is configured.
        policy: Which origins are named.
        revocations: The grants that no longer hold.
        feed: Reads them.
        run_client_calls: Runs scripts for clients.

    Raises:
        ConfigError: A key cannot be used.
    """
    signing = signing_key_of(settings)
    fixed = _fixed_keys(settings, signing)
    file: KeyFile | None = None
    clients: list[HttpClient] = []
    jwks: JwksUrl | None = None
    tokens: TokenVerifier | None = None
    connection_tokens: TokenVerifier | None = None

    def forget() -> None:
        for verifier in (tokens, connection_tokens):
            if verifier is not None:
                verifier.forget()

    if settings.has_tokens:
        rules = TokenRules(settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway, settings.jwt_require_exp)

        def keys() -> list[TokenKey]:
            return [*fixed, *(each for source in (file, jwks) if source for each in source.keys)]

        tokens = TokenVerifier(keys, rules)
        connection_tokens = TokenVerifier(keys, rules, read=read_connection_claims)
        file = _key_file(settings, forget)
    if settings.jwks_url is not None:
        assert tokens is not None
        clients.append(HttpClient(settings.jwks_url, TIMEOUT, MAX_JWKS_BYTES))
        jwks = JwksUrl(clients[-1], settings.jwt_algorithms, settings.jwks_max_age, forget)
    authorize: AuthorizeUrl | None = None
    if settings.authorize_url is not None:
        limit = settings.authorize_concurrency
        clients.append(HttpClient(settings.authorize_url, settings.authorize_timeout, MAX_AUTHORIZE_BYTES, limit))
        authorize = AuthorizeUrl(clients[-1], limit, settings.authorize_cache, settings.authorize_ttl)
    anonymous = Grant(read_setting(settings.anonymous)) if settings.anonymous is not None else None
    sources = Sources(
        settings.accepted_keys(), tokens, connection_tokens, jwks, authorize, Tickets(run_client_calls), anonymous
    )
    authenticator = GrantAuthenticator(sources, revocations, feed, policy)
    return GrantServices(authenticator, _share_links(settings, signing), feed, jwks, file, tuple(clients))
