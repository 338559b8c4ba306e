"""Locks that services share through Redis: a key that expires, and whose value is its owner's."""

import asyncio
from secrets import token_hex
from typing import Any

from redis.asyncio import Redis, RedisCluster

from relay_client.redis_errors import REDIS_FAILURES

#: Deletes a key whose value is the owner's: it may have expired, and be another's.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class ServiceLocks:
    """The locks that one service holds."""

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}

    async def acquire(self, client: Redis | RedisCluster, name: str, expires: float, timeout: float) -> bool:
        """Take a lock unless it is taken, for `expires` seconds; raises ConnectionError after `timeout` seconds."""
        if not expires > 0:
            raise ValueError(f"a lock's timeout must be over 0 s, not {expires!r}")
        token = token_hex(8)
        command: Any = client.set(name, token, nx=True, px=max(1, int(expires * 1000)))
        if not await _answer(command, timeout):
            return False
        self._tokens[name] = token
        return True

    async def release(self, client: Redis | RedisCluster, name: str, timeout: float) -> bool:
        """Release a lock; False if this service does not hold it. Raises ConnectionError after `timeout` seconds."""
        token = self._tokens.pop(name, None)
        if token is None:
            return False
        command: Any = client.eval(_RELEASE, 1, name, token)
        return bool(await _answer(command, timeout))


async def _answer(command: Any, timeout: float) -> Any:
    try:
        async with asyncio.timeout(timeout):
            return await command
    except (*REDIS_FAILURES, TimeoutError) as error:
        raise ConnectionError(f"Redis does not answer: {error or 'timed out'}") from error
