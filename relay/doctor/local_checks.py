"""What can be checked with nothing but this machine: settings, the limit of open files, the claims of a token."""

import resource
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from relay.config import RedisSettings, Settings, unknown_variables
from relay.core import base64url
from relay.doctor.problems import Finding, found
from relay.processes import MAX_FILES
from relay.profile import unsafe_defaults

#: Files that a relay opens besides those of its clients and its connections to Redis.
_OWN_FILES = 64


def check_settings(settings: Settings, redis_settings: RedisSettings) -> list[Finding]:
    """Return variables that are no settings, and with the profile of production unsafe defaults."""
    findings = [found("setting-unknown", line) for line in unknown_variables()]
    if settings.profile == "production":
        findings += [found("setting-unsafe", line) for line in unsafe_defaults(settings, redis_settings)]
    return findings


def check_files(settings: Settings) -> list[Finding]:
    """Compare the hard limit of open files, up to which a relay raises its own, with what its clients need."""
    needed = settings.max_clients + settings.redis_max_connections + _OWN_FILES
    soft, hard = (
        MAX_FILES if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    limit = max(soft, min(hard, MAX_FILES))
    if limit >= needed:
        return []
    detail = f"{settings.max_clients} clients need {needed} open files, and a relay gets {limit}"
    return [found("file-limit", detail)]


def _claims_of(token: str) -> dict[str, Any] | None:
    """Return the claims of a token, whose signature is not checked; None if it cannot be read."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(base64url.decode(parts[1].encode()))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def _is_meant(audience: list[Any], accepted: Sequence[str]) -> bool:
    """Whether a token with this `aud` is for one of the accepted audiences, or has none and needs none."""
    return any(each in accepted for each in audience) if accepted else not audience


def check_token(token: str, settings: Settings) -> list[Finding]:
    """Return what is wrong with the claims of a token: its times, and where this machine has keys its audience and issuer."""
    claims = _claims_of(token)
    if claims is None:
        return [found("token-malformed", "it is no JSON Web Token")]
    now, findings = time.time(), []
    expires = claims.get("exp")
    if isinstance(expires, int | float) and expires <= now:
        findings.append(found("token-expired", f"it expired {now - expires:.0f} s ago"))
    begins = max((each for name in ("nbf", "iat") if isinstance(each := claims.get(name), int | float)), default=0)
    if begins > now + settings.jwt_leeway:
        findings.append(found("token-not-yet-valid", f"it begins in {begins - now:.0f} s"))
    if settings.has_tokens:
        named = claims.get("aud", [])
        audience = [named] if isinstance(named, str) else named
        if not isinstance(audience, list) or not _is_meant(audience, settings.jwt_audience):
            findings.append(found("token-audience", f"its aud is {named!r}"))
        if settings.jwt_issuer is not None and claims.get("iss") != settings.jwt_issuer:
            findings.append(found("token-issuer", f"its iss is {claims.get('iss')!r}"))
    return findings
