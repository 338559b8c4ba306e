"""The choice between a relay that asks for grants and one that does not."""

from typing import Protocol

from relay.broker.contract import RunCalls
from relay.config import Settings
from relay.core.errors import ConfigError
from relay.core.revocations import Revocations
from relay.server.auth.authenticator import Authenticator, OpenAuthenticator
from relay.server.auth.revocation_feed import RevocationFeed
from relay.server.auth.share_links import ShareLinks
from relay.server.cors import CorsPolicy


class GrantServices(Protocol):
    """An authenticator, and what runs beside it."""

    @property
    def authenticator(self) -> Authenticator:
        """Reads the credentials of clients."""

    @property
    def share_links(self) -> ShareLinks | None:
        """Makes share links, where that is possible."""

    async def run(self) -> None:
        """Run the tasks of the authenticator, if it has any, until cancelled."""


class NoGrantServices:
    """The services of a relay that asks for no grants: none."""

    authenticator: Authenticator = OpenAuthenticator()
    share_links: ShareLinks | None = None

    async def run(self) -> None:
        """Do nothing."""


def grant_services(
    settings: Settings, policy: CorsPolicy, revocations: Revocations, feed: RevocationFeed, run_client_calls: RunCalls
) -> GrantServices:
    """Return what finds out the grants of clients.

    Args:
        settings: What is configured.
        policy: Which origins are named.
        revocations: The grants that no longer hold.
        feed: Reads them.
        run_client_calls: Runs scripts for clients.

    Raises:
        ConfigError: A key cannot be used, or the packages for grants are not installed.
    """
    if not settings.needs_grants:
        return NoGrantServices()
    try:
        # PyJWT, cryptography and httpx are an extra: a relay without grants needs none of them.
        from relay.server.auth.setup import set_up
    except ImportError as error:
        raise ConfigError(
            f"Grants are configured, and the package {error.name} is not installed. Run: pip install 'trio-relay[grants]'"
        ) from None
    return set_up(settings, policy, revocations, feed, run_client_calls)
