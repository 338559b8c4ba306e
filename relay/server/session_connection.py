"""The connection of a client, as what executes its commands sees it."""

from typing import Protocol

from relay.core.batches import Batch, Framing
from relay.core.client_limits import ClientShare
from relay.core.client_orders import Order
from relay.core.closecodes import Close
from relay.core.groups import Subscriber
from relay.protocols.tasks import PLAIN

#: Encodes what is sent to one client alone and carries no update.
REPLY_ENCODING = PLAIN


class Connection(Subscriber, Protocol):
    """The connection of a client, as its commands see it."""

    @property
    def framing(self) -> Framing:
        """How messages are framed."""

    @property
    def share(self) -> ClientShare:
        """The client's share of the limits of its address and its subject."""

    @property
    def is_low(self) -> bool:
        """The client has read most of what waited for it."""

    def offer(self, batch: Batch, *, paced: bool = False) -> None:
        """Write a batch, or queue what the socket does not take."""

    def give_order(self, order: Order) -> None:
        """Do what the server's API asks for."""

    def close(self, close: Close) -> None:
        """End the session this way. Returns at once."""

    async def wait_low(self) -> None:
        """Wait until `is_low`."""
