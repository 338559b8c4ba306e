"""The files that browsers load: the page at ``/``, the client, and the element for other people's pages.

They are built from ``clients/js`` by ``npm run build`` and are a part of the package: no page needs a bundler or a registry.
"""

import gzip
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from html import escape
from importlib.resources import files
from typing import NamedTuple

from quart import Response, request
from quart_trio import QuartTrio

_JAVASCRIPT = "text/javascript; charset=utf-8"

#: By path, what pages of other origins may load, too.
SCRIPTS = {
    "/relay-client.js": _JAVASCRIPT,  # the client, an ES module
    "/relay.js": _JAVASCRIPT,  # the client with <relay-task> and <relay-tasks>
    "/relay-worker.js": _JAVASCRIPT,  # the script of the shared worker
}

#: By path, what belongs to the page at ``/``.
_PAGE = {
    "/": "text/html; charset=utf-8",
    "/relay-page.js": _JAVASCRIPT,
    "/relay-page.css": "text/css; charset=utf-8",
    "/relay-icon.svg": "image/svg+xml",
}

#: All that the page may do: run its own script, and talk to the relay that it came from.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

_HEADERS = {
    # A relay of another version brings other files: pages ask each time whether their copy is current.
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "vary": "accept-encoding",
}
_PAGE_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class _File(NamedTuple):
    """A file as it is sent."""

    body: bytes
    compressed: bytes
    tag: str
    headers: dict[str, str]


def _file(name: str, media_type: str, edit: Callable[[bytes], bytes], more: dict[str, str]) -> _File:
    body = edit(files("relay.server").joinpath("static", name).read_bytes())
    tag = blake2b(body, digest_size=12).hexdigest()
    headers = {**_HEADERS, **more, "content-type": media_type, "etag": f'W/"{tag}"'}
    return _File(body, gzip.compress(body, mtime=0), tag, headers)


def _answer(file: _File) -> Response:
    if request.if_none_match.contains_weak(file.tag):
        return Response(b"", 304, file.headers)
    if request.accept_encodings["gzip"] > 0:
        return Response(file.compressed, 200, {**file.headers, "content-encoding": "gzip"})
    return Response(file.body, 200, file.headers)


def add_static_files(app: QuartTrio, api_prefix: str, *, with_page: bool) -> None:
    """Add the routes to an app.

    Args:
        app: The app.
        api_prefix: The path before ``/tasks`` of the HTTP API, which the page asks.
        with_page: Whether the page at ``/`` is served, and not only the scripts.
    """

    def with_prefix(body: bytes) -> bytes:
        return body.replace(b"{{api-prefix}}", escape(api_prefix).encode())

    served = {path: _file(path[1:], media_type, bytes, {}) for path, media_type in SCRIPTS.items()}
    if with_page:
        for path, media_type in _PAGE.items():
            served[path] = _file(path[1:] or "index.html", media_type, with_prefix, _PAGE_HEADERS)
    for path, file in served.items():
        app.add_url_rule(path, f"static {path}", _answering(file), methods=["GET"])


def _answering(file: _File) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return _answer(file)

    return answer
