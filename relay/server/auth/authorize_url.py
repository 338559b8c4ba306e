"""Asking a backend what a client may do: one request for each set of cookies and authorization header, and never a storm."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256
from time import time
from typing import Any

import msgspec
import structlog
import trio

from relay.core.closecodes import Close
from relay.core.errors import BadGrant, Unauthenticated, Unverified
from relay.core.grant_claims import read_claims
from relay.core.grants import Grant
from relay.core.json_errors import NOT_JSON
from relay.server.auth.http_client import Answer, HttpClient
from relay.server.cors import Headers, header

_log = structlog.get_logger("relay.authorize")

#: Longest answer, in bytes.
MAX_BYTES = 64 * 1024

#: Answers that are remembered.
MAX_REMEMBERED = 16_384

#: Clients that may wait for an answer. The next ones are to try again.
MAX_WAITING = 1024

#: Seconds for which nothing is asked after failures in a row: the first pause, and the longest.
FIRST_PAUSE, MAX_PAUSE = 0.5, 10.0

#: Headers of a client that are forwarded.
_FORWARDED = (b"cookie", b"authorization", b"origin", b"user-agent")

#: Of those, the ones that say who the client is.
_CREDENTIALS = (b"cookie", b"authorization")


class _Question:
    """A request under way, and its answer for all who wait for it."""

    __slots__ = ("done", "grant")

    def __init__(self) -> None:
        self.done = trio.Event()
        #: None if the client that asked has gone before the answer.
        self.grant: Grant | Unauthenticated | Unverified | None = None


def forwarded(headers: Headers) -> dict[str, str]:
    """Return the headers of a client that are forwarded."""
    found = {name.decode(): header(headers, name) for name in _FORWARDED}
    return {name: value for name, value in found.items() if value is not None}


class AuthorizeUrl:
    """Asks a URL. The answer is 200 with the claims of a grant, 401 or 403; anything else counts as no answer.

    Clients with the same credentials share a request and, for a while, its answer. So many requests run at a time, so many
    clients wait, and after a failure there is a pause in which all are refused at once: nobody gets in, and nobody is asked.

    Args:
        client: Asks the URL.
        concurrency: Requests at a time.
        max_age: Seconds for which an answer counts.
        ttl: Seconds until a grant ends whose answer does not say when.
        now: The time, in seconds of the Unix epoch.
    """

    def __init__(
        self, client: HttpClient, concurrency: int, max_age: float, ttl: float, now: Callable[[], float] = time
    ) -> None:
        self._client = client
        self._slots = trio.CapacityLimiter(concurrency)
        self._max_age = max_age
        self._ttl = ttl
        self._now = now
        self._asking: dict[bytes, _Question] = {}
        self._known: OrderedDict[bytes, tuple[Grant | Unauthenticated, float]] = OrderedDict()
        self._waiting = 0
        self._pause = 0.0
        self._paused_until = 0.0

    async def grant_of(self, headers: Mapping[str, str]) -> Grant:
        """Return the grant of a client. The caller limits the time.

        Args:
            headers: What `forwarded` returned for it.

        Raises:
            Unauthenticated: The backend refuses it.
            Unverified: The backend cannot be asked now, or gives no proper answer.
        """
        credentials = [headers.get(name.decode(), "") for name in _CREDENTIALS]
        key = sha256(msgspec.json.encode(credentials)).digest()
        outcome: Grant | Unauthenticated | Unverified | None = None
        while outcome is None:
            known = self._known.get(key)
            if known is not None and known[1] > trio.current_time():
                return _granted(known[0])
            question = self._asking.get(key)
            if question is not None:
                await self._wait(question)
                outcome = question.grant
                continue
            self._check_pause()
            self._check_room()
            question = self._asking[key] = _Question()
            try:
                outcome = question.grant = await self._ask(key, headers)
            finally:
                del self._asking[key]
                question.done.set()
        return _granted(outcome)

    def _check_pause(self) -> None:
        left = self._paused_until - trio.current_time()
        if left > 0:
            raise Unverified("the server that knows the clients does not answer", retry_after=left)

    def _check_room(self) -> None:
        if self._waiting >= MAX_WAITING:
            raise Unverified("too many clients wait to be checked", retry_after=1.0)

    async def _wait(self, question: _Question) -> None:
        self._check_room()
        self._waiting += 1
        try:
            await question.done.wait()
        finally:
            self._waiting -= 1

    async def _ask(self, key: bytes, headers: Mapping[str, str]) -> Grant | Unauthenticated | Unverified:
        self._waiting += 1
        try:
            async with self._slots:
                self._check_pause()  # others may have failed meanwhile
                answer = await self._client.get({**headers, "accept": "application/json"})
            grant = self._read(answer)
        except Unverified as error:
            self._on_failure(error)
            return error
        finally:
            self._waiting -= 1
        self._pause = 0.0
        self._remember(key, grant)
        return grant

    def _on_failure(self, error: Unverified) -> None:
        now = trio.current_time()
        if now < self._paused_until:
            return  # one of several that were under way together
        self._pause = min(MAX_PAUSE, self._pause * 2 or FIRST_PAUSE)
        self._paused_until = now + self._pause
        _log.error("RELAY_AUTHORIZE_URL cannot be asked", error=str(error), retry_in=self._pause)

    def _remember(self, key: bytes, grant: Grant | Unauthenticated) -> None:
        age = self._max_age
        if isinstance(grant, Grant) and grant.expires_at is not None:
            age = min(age, grant.expires_at - self._now())
        if age > 0:
            self._known[key] = grant, trio.current_time() + age
            self._known.move_to_end(key)
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)

    def _read(self, answer: Answer) -> Grant | Unauthenticated:
        if answer.status == 401:
            return Unauthenticated("unauthenticated", "log in first", Close.UNAUTHENTICATED)
        if answer.status == 403:
            return Unauthenticated("forbidden", "you may not use this", Close.FORBIDDEN)
        if answer.status != 200:
            raise Unverified(f"the answer has the status {answer.status}")
        now = self._now()
        try:
            claims = msgspec.json.decode(answer.body, type=dict[str, Any])
            expires_in = claims.pop("expires_in", None)
            if isinstance(expires_in, int | float):
                claims["exp"] = now + expires_in
            claims.setdefault("exp", now + self._ttl)
            claims["iat"] = now
            return read_claims(claims)
        except NOT_JSON:
            raise Unverified("the answer is no JSON object") from None
        except BadGrant as error:
            raise Unverified(f"the answer is no grant: {error}") from None


def _granted(outcome: Grant | Unauthenticated | Unverified) -> Grant:
    if isinstance(outcome, Grant):
        return outcome
    raise outcome
