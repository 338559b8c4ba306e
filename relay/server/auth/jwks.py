"""The keys at a JWKS URL: fetched in a task of their own, again from time to time and when a token names an unknown one."""

from collections.abc import Callable, Sequence
from typing import NoReturn

import structlog
import trio

from relay.core.errors import Unverified
from relay.server.auth.http_client import HttpClient
from relay.server.auth.token_keys import BadKey, TokenKey, limited, read_public_jwks

_log = structlog.get_logger("relay.jwks")

#: Seconds for one request, and its longest answer.
TIMEOUT = 5.0
MAX_BYTES = 256 * 1024

#: Seconds between the end of a request and the next one: whatever clients send, the server is not asked more often.
MIN_PAUSE = 2.0


class JwksUrl:
    """Keeps the keys of a URL. While it cannot be read, those that it had stay.

    Args:
        client: Asks for the URL.
        algorithms: The algorithms that the keys may be used with.
        max_age: Seconds until the keys are fetched again.
        on_change: Called when the keys are others than before.

    Attributes:
        keys: The keys that were read last.
    """

    def __init__(
        self, client: HttpClient, algorithms: Sequence[str], max_age: float, on_change: Callable[[], None]
    ) -> None:
        self._client = client
        self._algorithms = algorithms
        self._max_age = max_age
        self._on_change = on_change
        self.keys: list[TokenKey] = []
        self._started = 0
        self._finished = 0
        self._is_failing = False
        self._wanted = trio.Event()
        self._on_finished = trio.Event()

    async def run(self) -> NoReturn:
        """Fetch the keys, until cancelled."""
        while True:
            self._wanted = trio.Event()
            self._started += 1
            await self._fetch()
            self._finished = self._started
            done, self._on_finished = self._on_finished, trio.Event()
            done.set()
            await trio.sleep(MIN_PAUSE)
            with trio.move_on_after(max(0.0, self._max_age - MIN_PAUSE)):
                await self._wanted.wait()

    async def refresh(self) -> None:
        """Wait until the keys were fetched by a request that begins from now on. The caller limits the time.

        Raises:
            Unverified: The request failed.
        """
        started = self._started
        while self._finished <= started:
            self._wanted.set()
            await self._on_finished.wait()
        if self._is_failing:
            raise Unverified("the keys for tokens cannot be fetched now")

    async def _fetch(self) -> None:
        try:
            answer = await self._client.get({"accept": "application/json"})
            if answer.status != 200:
                raise Unverified(f"the answer has the status {answer.status}")
            keys = limited(read_public_jwks(answer.body), self._algorithms)
        except (Unverified, BadKey) as error:
            self._is_failing = True
            _log.error("keys for tokens cannot be fetched", error=str(error), known_keys=len(self.keys))
            return
        self._is_failing = False
        if keys != self.keys:
            _log.info("keys for tokens fetched", keys=len(keys))
            self.keys = keys
            self._on_change()
