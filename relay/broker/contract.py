"""What the rest of Relay asks of a broker, and may rely on.

Delivery: a handler of `subscribe_raw` is called once for each message that the broker passes on, in the order in which the
broker got them on one channel, from the event loop's thread, never concurrently. While the connection is down nothing is
called; `Broker.alive` says so. A handler must not raise and must not block.

Every call that waits for the broker ends within the configured deadline: with its result, with BrokerUnavailable
(try again) or with BrokerRefused (do not). All may be cancelled at any time; a cancelled publish may or may not have
happened.
"""

from collections.abc import Callable
from typing import Protocol

#: Takes the broker's channel name and the message's bytes.
RawHandler = Callable[[str, bytes], None]


class Broker(Protocol):
    """A connection to the publishers' side."""

    @property
    def alive(self) -> bool:
        """The subscription has shown life within the last health interval plus deadline."""

    def subscribe_raw(self, channel: str, handler: RawHandler) -> Callable[[], None]:
        """Call the handler for each message on a channel or glob pattern; returns what ends that."""

    async def publish(self, channel: str, message: bytes) -> int:
        """Publish; returns how many subscribers Redis handed it to."""

    async def ping(self) -> float:
        """A round trip; returns its seconds."""
