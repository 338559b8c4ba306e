"""`relay token`: make a token that a relay accepts."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from relay_client.grants import Grants

from relay.commands.key import ScopeOptions
from relay.core.errors import BadGrant, ConfigError
from relay.core.grant_claims import add_compact, read_scopes

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds_of(ttl: str) -> float:
    """Return the seconds of a time such as 15m."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", ttl)
    if found is None:
        raise typer.BadParameter(f"{ttl!r} is not a time such as 30s, 15m, 8h or 7d")
    return int(found[1]) * _UNITS[found[2]]


def _claim(scopes: ScopeOptions) -> dict[str, Any]:
    claim: dict[str, Any] = {}
    try:
        for verb, words in scopes.items():
            for word in words or ():
                add_compact(claim.setdefault(verb, {}), word)
        read_scopes(claim)
    except BadGrant as error:
        raise typer.BadParameter(str(error)) from None
    if not claim:
        raise typer.BadParameter("say what the token is for, such as --watch task:demo")
    return claim


def _grants(key_file: str | None, algorithm: str, key_id: str | None) -> Grants:
    issuer = os.environ.get("RELAY_JWT_ISSUER") or None
    audience = os.environ.get("RELAY_JWT_AUDIENCE", "").partition(",")[0].strip() or None
    if key_file is not None:
        try:
            key = Path(key_file).read_bytes()
        except OSError as error:
            raise ConfigError(f"--key-file: {error.strerror}: {key_file}") from None
        return Grants(key, algorithm=algorithm, key_id=key_id, issuer=issuer, audience=audience)
    secret = os.environ.get("RELAY_JWT_SECRET")
    if not secret:
        raise ConfigError("RELAY_JWT_SECRET: not set. Set it as for the relay, or give a private key with --key-file.")
    return Grants(secret, key_id=key_id, issuer=issuer, audience=audience)


def run(
    scopes: ScopeOptions,
    ttl: str,
    subject: str | None,
    groups: Sequence[str],
    key_file: str | None,
    algorithm: str,
    key_id: str | None,
) -> None:
    """Print a token.

    Args:
        scopes: What it is for, by verb, in the compact form.
        ttl: How long it holds, such as ``15m``.
        subject: Its ``sub``.
        groups: Its ``groups``.
        key_file: A private key to sign with, in place of ``RELAY_JWT_SECRET``.
        algorithm: The algorithm of the private key.
        key_id: The ``kid`` of the key.

    Raises:
        ConfigError: There is no secret, or the file cannot be read.
        GrantError: The key is unfit.
    """
    claim, seconds = _claim(scopes), seconds_of(ttl)
    typer.echo(_grants(key_file, algorithm, key_id).sign(claim, subject, list(groups), seconds))
