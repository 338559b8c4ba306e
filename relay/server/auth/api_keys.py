"""API keys in requests: `X-API-Key`, or `Authorization: Bearer` with what begins like a key."""

from relay.core.api_keys import PREFIX
from relay.server.cors import Headers, header


def key_of(headers: Headers) -> str | None:
    """Return the API key that a request shows; None when it shows none. A bearer token that is no key is not returned."""
    key = header(headers, b"x-api-key")
    if key is not None:
        return key.strip()
    scheme, _, value = (header(headers, b"authorization") or "").partition(" ")
    value = value.strip()
    return value if scheme.lower() == "bearer" and value.startswith(PREFIX) else None
