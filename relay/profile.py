"""Profiles: what must be set before a relay may serve the public, and what everybody may do as long as it is not."""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from relay.config import RedisSettings, Settings
from relay.core.errors import ConfigError

#: Settings whose defaults suit a machine of one's own. Their values are choices once they are set, whatever they are.
_UNSAFE_DEFAULTS = {
    "allowed_origins": "pages of every origin may connect. Set it to the origins of your pages, or to same-origin.",
    "allowed_hosts": "the relay answers under every name, also under that of an attacker. Set it to the relay's names.",
    "max_clients_per_address": "one address may take all places. Set it, and RELAY_TRUSTED_PROXIES behind a proxy; 0 means "
    "that the proxy limits clients.",
    "admin_bind": "/metrics and /api/status answer where clients connect. Set it to an address that only operators reach.",
}

_NEEDS_GRANTS = (
    "RELAY_JWT_SECRET: clients need no grant, so that everyone who reaches the relay sees every task. Set it, RELAY_JWT_KEYS, "
    "RELAY_JWKS_URL or RELAY_AUTHORIZE_URL, or say with RELAY_ANONYMOUS what everyone may do."
)
_NEEDS_REDIS = (
    "REDIS_URL: the embedded Redis keeps nothing on disk, and no other relay can use it. Set it to your Redis."
)


def unsafe_defaults(settings: Settings, redis_settings: RedisSettings) -> list[str]:
    """Return a sentence for each default that does not suit a relay that serves the public: the variable, why, what to do."""
    found = [] if settings.needs_grants else [_NEEDS_GRANTS]
    found += [
        f"RELAY_{name.upper()}: {text}"
        for name, text in _UNSAFE_DEFAULTS.items()
        if name not in settings.model_fields_set
    ]
    return found if redis_settings.configured_url() is not None else [*found, _NEEDS_REDIS]


def require_safe(settings: Settings, redis_settings: RedisSettings) -> None:
    """Refuse to start with ``RELAY_PROFILE=production`` on an unsafe default.

    Raises:
        ConfigError: There are some; the message has a line for each.
    """
    found = unsafe_defaults(settings, redis_settings) if settings.profile == "production" else []
    if found:
        lines = "\n".join(f"  {each}" for each in found)
        raise ConfigError(f"RELAY_PROFILE=production does not start with unsafe defaults:\n{lines}")


def is_private(addresses: Iterable[str]) -> bool:
    """Whether all addresses that a relay listens on are loopback ones, which only the same machine reaches.

    Args:
        addresses: IP addresses.
    """
    found = list(addresses)
    return bool(found) and all(ip_address(address.partition("%")[0]).is_loopback for address in found)


def open_notice(settings: Settings, addresses: Sequence[str]) -> tuple[str, str] | None:
    """Return what to log at the start of a relay whose clients need no grant; None if they need one.

    Args:
        settings: The settings.
        addresses: IP addresses that the relay listens on, as far as they are known.

    Returns:
        The log level, and the text.
    """
    if settings.needs_grants:
        return None
    if is_private(addresses):
        return "info", "clients need no grant: everyone on this machine sees every task"
    return "warning", (
        "clients need no grant: everyone who reaches this relay sees every task; set RELAY_JWT_SECRET, RELAY_JWT_KEYS, "
        "RELAY_JWKS_URL or RELAY_AUTHORIZE_URL, or say with RELAY_ANONYMOUS what everyone may do (docs/grants.md)"
    )
