"""Requests to other servers: within a deadline, with answers of bounded size, and without following redirects."""

from collections.abc import Mapping
from typing import NamedTuple

import httpx
import trio

from relay.core.errors import Unverified


class Answer(NamedTuple):
    """A server's answer."""

    status: int
    body: bytes


class HttpClient:
    """Asks one server.

    Args:
        url: What is asked for.
        timeout: Seconds for a whole request.
        max_bytes: Longest answer.
        connections: Connections to the server at a time.
    """

    def __init__(self, url: str, timeout: float, max_bytes: int, connections: int = 1) -> None:
        self._url = url
        self._timeout = timeout
        self._max_bytes = max_bytes
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        # What a server has to be reached through, or trusted by, is the operator's: as usual, in the environment.
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False)

    async def get(self, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a GET request.

        Raises:
            Unverified: There is none in time, or it is too long. The message names neither the server nor the headers.
        """
        try:
            with trio.fail_after(self._timeout):
                async with self._client.stream("GET", self._url, headers=dict(headers or {})) as response:
                    body = b""
                    async for part in response.aiter_bytes(16_384):
                        body += part
                        if len(body) > self._max_bytes:
                            raise Unverified(f"the answer is longer than {self._max_bytes} bytes")
                    return Answer(response.status_code, body)
        except trio.TooSlowError:
            raise Unverified(f"no answer within {self._timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            raise Unverified(f"the request failed: {type(error).__name__}") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
