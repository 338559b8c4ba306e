"""`relay tail`: follow a relay from a terminal, over the same WebSocket as browsers."""

from collections.abc import Callable, Sequence

import msgspec
import trio
from trio_websocket import ConnectionClosed, HandshakeError, open_websocket_url

from relay.broker.listener import backoff

_CONNECT_TIMEOUT = 10.0


async def follow(url: str, task_ids: Sequence[str], on_line: Callable[[str], None]) -> None:
    """Call back with every message that a client of `/ws/tasks` gets, as it came, and reconnect for ever.

    Lines that begin with "#" are about the connection. Cancelling closes it.
    """
    attempt = 0
    while True:
        try:
            async with open_websocket_url(url, connect_timeout=_CONNECT_TIMEOUT) as connection:
                for task_id in task_ids:
                    await connection.send_message(
                        msgspec.json.encode({"type": "subscribe", "task_id": task_id}).decode()
                    )
                attempt = 0
                on_line(f"# connected to {url}")
                while True:
                    message = await connection.get_message()
                    on_line(message if isinstance(message, str) else repr(message))
        except ConnectionClosed as error:
            reason = error.reason
            on_line(f"# closed: {f'{reason.code} {reason.reason or reason.name}' if reason else 'connection lost'}")
        except (HandshakeError, OSError, trio.TooSlowError) as error:
            on_line(f"# cannot connect to {url}: {error or type(error).__name__}")
        await trio.sleep(backoff(attempt))
        attempt += 1
