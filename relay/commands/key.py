"""`relay key create`: make an API key, and its entry for the settings."""

import json
from collections.abc import Mapping, Sequence

import typer

from relay.core.api_keys import create_key
from relay.core.errors import BadGrant

#: Scopes by verb, as options of the command line; None for one that was not given.
ScopeOptions = Mapping[str, Sequence[str] | None]


def create(name: str, scopes: ScopeOptions, *, as_json: bool) -> None:
    """Print a fresh key and its entry on stdout, and what to do with them on stderr; with ``as_json`` only JSON."""
    words = [f"{verb}:{scope}" for verb, given in scopes.items() for scope in given or ()]
    if any(len(word.split()) != 1 for word in words):
        raise typer.BadParameter("a scope of a key must have no spaces")
    try:
        key, entry = create_key(name, " ".join(words))
    except BadGrant as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        typer.echo(json.dumps({"key": key, "entry": entry}))
        return
    typer.echo(f"key    {key}")
    typer.echo(f"entry  {entry}")
    typer.echo(
        "Give the key to the service, which sends it as `Authorization: Bearer` or as `X-API-Key`. It is not shown again.\n"
        "Add the entry to RELAY_API_KEYS, or to the file that RELAY_API_KEYS_FILE names, and restart the relays.",
        err=True,
    )
