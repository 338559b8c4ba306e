"""From the settings to an authenticator, and the tasks that it needs."""

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
from relay.server.auth.revocation_feed import RevocationFeed
from relay.server.auth.share_links import ShareLinks
from relay.server.auth.signing_keys import SigningKey, signing_key_of
from relay.server.auth.tickets import Tickets
from relay.server.auth.token_keys import BadKey, TokenKey, algorithms_of, limited, read_key_file
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
        clients: Connections to other servers.
    """

    authenticator: GrantAuthenticator
    share_links: ShareLinks | None
    feed: RevocationFeed
    jwks: JwksUrl | None
    clients: tuple[HttpClient, ...]

    async def run(self) -> None:
        """Run the tasks of the authenticator until cancelled; then close its connections."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.feed.run)
                if self.jwks is not None:
                    nursery.start_soon(self.jwks.run)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                for client in self.clients:
                    await client.close()


def _share_links(settings: Settings, key: SigningKey | None) -> ShareLinks | None:
    if key is None or settings.share_ttl == 0:
        return None
    common = {"iss": settings.jwt_issuer, "aud": settings.jwt_audience[0] if settings.jwt_audience else None}
    return ShareLinks(key.sign, settings.share_ttl, {name: text for name, text in common.items() if text is not None})


def _local_keys(settings: Settings, signing: SigningKey | None) -> list[TokenKey]:
    """Return the keys of the settings and of the key file, and that of share links.

    Raises:
        ConfigError: A key cannot be used.
    """
    keys: list[TokenKey] = []
    if settings.jwt_secret is not None:
        secret = settings.jwt_secret.get_secret_value().encode()
        keys.append(TokenKey(secret, algorithms_of(secret)))
    if settings.jwt_keys is not None:
        try:
            keys += read_key_file(settings.jwt_keys)
        except (BadKey, OSError) as error:
            raise ConfigError(f"RELAY_JWT_KEYS: {error}") from None
    if signing is not None and signing.public is not None:
        keys.append(signing.public)
    usable = limited(keys, settings.jwt_algorithms)
    if keys and not usable:
        raise ConfigError("RELAY_JWT_ALGORITHMS: none of them can be used with the keys that are configured")
    return usable


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
    local = _local_keys(settings, signing)
    clients: list[HttpClient] = []
    jwks: JwksUrl | None = None
    tokens: TokenVerifier | None = None
    connection_tokens: TokenVerifier | None = None
    if settings.has_tokens:
        rules = TokenRules(settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway, settings.jwt_require_exp)

        def keys() -> list[TokenKey]:
            return [*local, *(jwks.keys if jwks is not None else ())]

        tokens = TokenVerifier(keys, rules)
        connection_tokens = TokenVerifier(keys, rules, read=read_connection_claims)
    if settings.jwks_url is not None:
        assert tokens is not None
        clients.append(HttpClient(settings.jwks_url, TIMEOUT, MAX_JWKS_BYTES))

        def forget() -> None:
            for verifier in (tokens, connection_tokens):
                if verifier is not None:
                    verifier.forget()

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
    return GrantServices(authenticator, _share_links(settings, signing), feed, jwks, tuple(clients))
