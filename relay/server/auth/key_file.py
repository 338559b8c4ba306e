"""The keys of a file: read at the start, and again when the file has changed, so that keys are replaced without a restart."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import structlog
import trio

from relay.server.auth.token_keys import BadKey, TokenKey, limited, read_key_file

_log = structlog.get_logger("relay.key_file")

#: Seconds between two looks at the file; and for which one may take, since the file may be on another machine.
INTERVAL = 1.0
TIMEOUT = 10.0

#: What is compared: a file that is replaced has another inode, one that is written to another time.
_Signature = tuple[int, int, int]


class KeyFile:
    """Keeps the keys of a file. While it cannot be read, those that it had stay.

    Args:
        path: The file, in PEM or as a JWKS.
        algorithms: The algorithms that the keys may be used with.
        on_change: Called when the keys are others than before.

    Raises:
        BadKey: A key cannot be used.
        OSError: The file cannot be read.

    Attributes:
        keys: The keys that were read last.
    """

    def __init__(self, path: Path, algorithms: Sequence[str], on_change: Callable[[], None]) -> None:
        self._path = path
        self._algorithms = algorithms
        self._on_change = on_change
        self._signature: _Signature | None = self._look()
        self.keys: list[TokenKey] = self._read()

    async def run(self) -> NoReturn:
        """Look at the file from time to time, until cancelled."""
        while True:
            await trio.sleep(INTERVAL)
            with trio.move_on_after(TIMEOUT):
                signature = await trio.to_thread.run_sync(self._look, abandon_on_cancel=True)
                if signature != self._signature:
                    # Looked at before it is read: what is written meanwhile has another signature.
                    self._signature = signature
                    await self._reload()

    async def _reload(self) -> None:
        """Read the file, once for each time that it changes."""
        try:
            keys = await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        except (BadKey, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            _log.error(
                "RELAY_JWT_KEYS has changed and cannot be used; the former keys stay",
                error=reason,
                known_keys=len(self.keys),
            )
            return
        if keys != self.keys:
            _log.info("RELAY_JWT_KEYS has changed", keys=len(keys))
            self.keys = keys
            self._on_change()

    def _look(self) -> _Signature | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _read(self) -> list[TokenKey]:
        keys = limited(read_key_file(self._path), self._algorithms)
        if not keys:
            raise BadKey("RELAY_JWT_ALGORITHMS has none of the algorithms of its keys")
        return keys
