"""The guard of the HTTP routes: origins and hosts are checked, CORS headers added, and answers are sent to their end."""

import json
from collections.abc import Callable
from typing import Any

import trio

from relay.protocols.mercure_forms import PATH as MERCURE
from relay.server.admission import CLIENT_LIMIT, whole_seconds
from relay.server.api_docs import DOCUMENTS
from relay.server.cors import PRIVATE, CorsPolicy, header
from relay.server.operator_paths import OPERATORS, is_on_admin
from relay.server.request_bodies import BodyRefused
from relay.server.static_files import SCRIPTS

#: Paths of event streams, and of what their clients send.
_STREAMS = frozenset({"/events", MERCURE, "/connection/sse", "/connection/http_stream", "/emulation"})

#: Seconds that the last part of an answer may take once the app is done with it.
_SEND_TIMEOUT = 10.0


async def send_json(
    send: Any, status: int, body: dict[str, str] | None, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send a response with a JSON body, or with none."""
    content = b"" if body is None else json.dumps(body).encode() + b"\n"
    own = [(b"content-type", b"application/json")] if content else []
    own += [(b"content-length", b"%d" % len(content)), *(headers or [])] if status != 204 else (headers or [])
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": content, "more_body": False})


class HttpGuard:
    """Stands before Quart's routes.

    Args:
        policy: Which pages may use the relay.
        api_prefix: The path before ``/tasks`` of the HTTP API.
        needs_grants: Whether the answers of the API depend on who asks.
    """

    def __init__(self, policy: CorsPolicy, api_prefix: str, *, needs_grants: bool) -> None:
        self._policy = policy
        self._api = f"{api_prefix}/"
        self._public = frozenset(f"{api_prefix}/{name}" for name in DOCUMENTS)
        self._needs_grants = needs_grants

    def _is_for_pages(self, path: str) -> bool:
        """Whether pages of other origins may use a path."""
        return path.startswith(self._api) or path in _STREAMS or path in SCRIPTS

    def _is_private(self, path: str) -> bool:
        """Whether an answer depends on who asks."""
        return self._needs_grants and path.startswith((self._api, MERCURE)) and path not in self._public

    def refusal_reason(self, path: str, scope: Any) -> str | None:
        """Return why a request to this path is refused; None when it is allowed."""
        if path in OPERATORS or is_on_admin(scope):
            return None
        return self._policy.refusal_reason(scope["headers"])

    async def refuse(self, send: Any, reason: str) -> None:
        """Answer a request that is refused."""
        which = "this page's origin" if reason == "origin" else "this Host"
        body = {"code": reason, "message": f"{which} is not allowed here"}
        await send_json(send, 403, body, self._policy.refusal_headers())

    async def refuse_busy(self, scope: Any, send: Any, status: int, message: str, retry_after: float) -> None:
        """Answer a request that cannot be served now, with 429 or 503."""
        code = CLIENT_LIMIT if status == 429 else "unavailable"
        seconds = b"%d" % whole_seconds(retry_after)
        headers = [(b"retry-after", seconds), *self._policy.response_headers(scope["headers"])]
        await send_json(send, status, {"code": code, "message": message}, headers)

    async def refuse_body(self, scope: Any, send: Any, refused: BodyRefused) -> None:
        """Answer a request whose body is not received to its end. The connection ends with the answer."""
        headers = [(b"connection", b"close")] if str(scope.get("http_version", "1.1")).startswith("1") else []
        if refused.status == 503:
            headers.append((b"retry-after", b"1"))
        body = {"code": refused.code, "message": refused.message}
        await send_json(send, refused.status, body, [*headers, *self._policy.response_headers(scope["headers"])])

    async def answers_preflight(self, scope: Any, path: str, send: Any) -> bool:
        """Answer a browser that asks before its request; False when this is another request."""
        headers = scope["headers"]
        is_preflight = scope["method"] == "OPTIONS" and header(headers, b"access-control-request-method") is not None
        if not is_preflight or not self._is_for_pages(path):
            return False
        await send_json(send, 204, None, self._policy.preflight_headers(headers))
        return True

    def guarded(self, scope: Any, path: str, send: Any, on_answer: Callable[[], None] = lambda: None) -> Any:
        """Return the ``send`` for Quart's part; `on_answer` is called when the answer is about to be sent.

        Quart-Trio is cancelled by the server in the middle of the last `send` of an answer, so that a connection that is to be
        closed after it would stay open. That one is shielded, for a limited time.
        """
        is_for_pages = self._is_for_pages(path) and not is_on_admin(scope)
        more = self._policy.response_headers(scope["headers"]) if is_for_pages else []
        is_private = self._is_private(path)

        async def guarded_send(message: Any) -> None:
            on_answer()
            if message["type"] == "http.response.start" and (more or is_private):
                own = message.get("headers", ())
                if is_private:
                    own = [*(pair for pair in own if pair[0].lower() != b"cache-control"), *PRIVATE]
                message = {**message, "headers": [*own, *more]}
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _SEND_TIMEOUT):
                    await send(message)
            else:
                await send(message)

        return guarded_send
