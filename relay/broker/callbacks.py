"""Callbacks with messages: each in a task and behind a queue of its own, so that a slow one delays no other."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
import trio

from relay.core.json_errors import NOT_JSON

_log = structlog.get_logger("relay.redis")

#: A callback takes the decoded message; it may be a plain function or an async one.
Callback = Callable[[Any], Awaitable[None] | None]

#: Messages that may wait for one callback. A callback that is slower loses the newest, logged and counted.
CALLBACK_QUEUE = 1024


class CallbackQueue:
    """The messages that wait for one callback.

    Attributes:
        overflows: Messages lost since the callback was too slow.
    """

    def __init__(self, callback: Callback) -> None:
        self._callback = callback
        self._send, self._receive = trio.open_memory_channel[Any](CALLBACK_QUEUE)
        self.overflows = 0

    def on_message(self, channel: str, message: bytes) -> None:
        """Take a message; it never waits. One that is not JSON is logged and skipped."""
        try:
            self._send.send_nowait(msgspec.json.decode(message))
        except NOT_JSON as error:
            _log.warning("message skipped", channel=channel, error=str(error))
        except trio.WouldBlock:
            self.overflows += 1
            _log.error("callback too slow, message lost", channel=channel, waiting=CALLBACK_QUEUE)

    def close(self) -> None:
        """Take no more messages; `run` ends after those that wait."""
        self._send.close()

    async def run(self) -> None:
        """Call back with one message after the other. A callback that raises is logged and called again with the next."""
        async for message in self._receive:
            try:
                result = self._callback(message)
                if inspect.isawaitable(result):
                    await result
            except Exception:  # noqa: BLE001 - other people's code: it must not end the subscription
                name = getattr(self._callback, "__qualname__", repr(self._callback))
                _log.exception("callback failed", callback=name)
