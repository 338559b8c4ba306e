"""The browser client, served by the relay that it connects to: no page needs a bundler or a package registry.

The file is built from ``clients/js`` by ``node clients/js/bundle.mjs`` and is a part of the package.
"""

from hashlib import blake2b
from importlib.resources import files

from quart import Response, request
from quart_trio import QuartTrio

#: Where pages import it from.
PATH = "/relay-client.js"


def add_browser_client(app: QuartTrio) -> None:
    """Add the route to an app. Pages ask each time whether their copy is current, as a new relay may bring a new client."""
    body = files("relay.server").joinpath("relay-client.js").read_bytes()
    tag = blake2b(body, digest_size=12).hexdigest()
    headers = {"etag": f'"{tag}"', "cache-control": "no-cache", "x-content-type-options": "nosniff"}

    @app.get(PATH)
    async def browser_client() -> Response:
        """The browser client, an ES module."""
        if request.if_none_match.contains_weak(tag):
            return Response(b"", 304, headers)
        return Response(body, 200, headers, content_type="text/javascript; charset=utf-8")
