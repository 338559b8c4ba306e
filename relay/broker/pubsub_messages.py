"""Messages and confirmations of one pub/sub connection: checked, and handed to those who want them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from relay_wire import keys

from relay.broker.contract import MessageHandler, PubSubReceiver
from relay.broker.reply_reader import malformed_reply

#: All channels that a `PubSubReceiver` receives begin with this.
_OWN_PREFIX = f"{keys.PREFIX}{{".encode()

_CONFIRMATIONS = frozenset(
    {b"subscribe", b"ssubscribe", b"psubscribe", b"unsubscribe", b"sunsubscribe", b"punsubscribe", b"pong"}
)


class MessageDispatcher:
    """Hands on what one connection receives.

    Attributes:
        pending_unsubscribes: How many confirmations of UNSUBSCRIBE are still to come, by channel.
    """

    def __init__(
        self,
        receiver: PubSubReceiver,
        handlers: Mapping[str, Sequence[MessageHandler]],
        probe_name: bytes,
        on_probe: Callable[[], None],
        *,
        is_sharded: bool,
    ) -> None:
        """Make it.

        Args:
            receiver: Receives messages on Relay's own channels.
            handlers: The handlers of plain channels and patterns, by name.
            probe_name: The channel of the connection's own probes.
            on_probe: Called with each of them.
            is_sharded: Whether Relay's own channels are sharded ones.
        """
        self._receiver = receiver
        self._handlers = handlers
        self._probe_name = probe_name
        self._on_probe = on_probe
        self._is_sharded = is_sharded
        self.pending_unsubscribes: Counter[str] = Counter()

    def handle(self, response: list[Any]) -> bool:
        """Handle one message or confirmation; returns whether the turn has to end after it.

        Raises:
            ConnectionError: It is neither.
        """
        kind = response[0] if response else None
        if kind == b"message" or kind == b"smessage":
            if len(response) != 3 or type(response[1]) is not bytes or type(response[2]) is not bytes:
                raise malformed_reply(response)
            _, name, message = response
            if name.startswith(_OWN_PREFIX):
                return self._receiver.on_message(name, message)
            if name == self._probe_name:
                self._on_probe()
            else:
                channel = name.decode(errors="replace")
                for handler in tuple(self._handlers.get(channel, ())):
                    handler(channel, message)
        elif kind == b"pmessage":
            pattern, name, message = _checked(response, 4)
            channel = name.decode(errors="replace")
            # What Relay publishes itself must not come in as a message of a service: it would go round indefinitely.
            if not channel.startswith(keys.PREFIX):
                for handler in tuple(self._handlers.get(pattern.decode(errors="replace"), ())):
                    handler(channel, message)
        elif type(kind) is bytes and kind in _CONFIRMATIONS:
            self._on_confirmation(kind, response)
        else:
            raise malformed_reply(response)
        return False

    def _on_confirmation(self, kind: bytes, response: list[Any]) -> None:
        if len(response) != 3:
            raise malformed_reply(response)
        raw_name = response[1]
        if type(raw_name) is not bytes or not raw_name.startswith(_OWN_PREFIX):
            return
        name = raw_name.decode(errors="replace")
        if kind in (b"subscribe", b"ssubscribe"):
            self._receiver.on_confirmed(name)
        elif (left := self.pending_unsubscribes.pop(name, 0)) > 0:
            if left > 1:
                self.pending_unsubscribes[name] = left - 1
        elif self._is_sharded:
            raise RedisConnectionError(f"the cluster serves {name} elsewhere now")


def _checked(response: list[Any], length: int) -> list[bytes]:
    """Return the parts of a message after its kind.

    Raises:
        ConnectionError: It is not of the form that messages have.
    """
    parts = response[1:]
    if len(response) != length or any(type(part) is not bytes for part in parts):
        raise malformed_reply(response)
    return parts
