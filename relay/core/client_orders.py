"""Orders of the server's API for connected clients, and whom they concern: what one relay asks all relays to do."""

from collections.abc import Sequence

import msgspec

from relay.core.json_errors import NOT_JSON

#: The longest order, in bytes.
MAX_BYTES = 128 * 1024


class SubscribeOrder(msgspec.Struct, frozen=True, tag="subscribe", tag_field="kind"):
    """Subscribe the client to a channel, by the name that clients know.

    Attributes:
        channel: The channel.
        info: What others see of the client in this channel, as JSON; empty for nothing.
        data: What the client is given with the subscription, as JSON; empty for nothing.
        expires_at: When the subscription ends, in seconds of the Unix epoch; None is never.
        offset: The offset after which the client gets what it missed; None for a newcomer.
        epoch: The epoch of the offset.
    """

    channel: str
    info: str = ""
    data: str = ""
    expires_at: float | None = None
    offset: int | None = None
    epoch: str = ""


class UnsubscribeOrder(msgspec.Struct, frozen=True, tag="unsubscribe", tag_field="kind"):
    """End a subscription of the client, by the name that clients know."""

    channel: str


class DisconnectOrder(msgspec.Struct, frozen=True, tag="disconnect", tag_field="kind"):
    """End the connection."""

    code: int = 3503
    reason: str = "force disconnect"


class RefreshOrder(msgspec.Struct, frozen=True, tag="refresh", tag_field="kind"):
    """Change the end of the connection.

    Attributes:
        expired: It ends now.
        expires_at: When it ends, in seconds of the Unix epoch; None is never.
    """

    expired: bool = False
    expires_at: float | None = None


Order = SubscribeOrder | UnsubscribeOrder | DisconnectOrder | RefreshOrder


class AddressedOrder(msgspec.Struct, frozen=True):
    """An order, and the clients that it is for: those of a user, or one of them.

    Attributes:
        order: What is to be done.
        user: The user; empty for clients without one.
        client: The id of one client; empty for all of the user.
        spared: Ids of clients that it is not for.
    """

    order: Order
    user: str
    client: str = ""
    spared: Sequence[str] = ()


_decode = msgspec.json.Decoder(AddressedOrder).decode
_encode = msgspec.json.Encoder().encode


def order_message(addressed: AddressedOrder) -> bytes:
    """Return an order as it is published on `relay_wire.keys.ORDERS`.

    Raises:
        ValueError: It is longer than MAX_BYTES.
    """
    message = _encode(addressed)
    if len(message) > MAX_BYTES:
        raise ValueError(f"an order has {MAX_BYTES} bytes at most")
    return message


def read_order(message: bytes) -> AddressedOrder | None:
    """Return the order in a message; None if it is none."""
    try:
        return _decode(message) if len(message) <= MAX_BYTES else None
    except NOT_JSON:
        return None
