"""The broker's contract: what the server may rely on, whichever Redis is behind it.

Delivery
    An update that a durable publish has acknowledged is in the channel's history, folded into its state, and sent to every
    subscription connection that was confirmed before. A subscription connection that breaks may have missed updates; they are
    read from the history afterwards. The history is bounded, in number and age, and one read of it in bytes: a reader is given
    the updates right after its position, without a gap, or a notice that the first of them is gone.

Order
    Within one epoch of a channel offsets count from 1 without gaps, and the live messages of a connection arrive in that order,
    each at most once. There is no order between channels. Calls of one `RunCalls` are carried out in order on each server.

Atomicity
    A script does everything or nothing: number, history, state, index and live message. It checks types, bounds and permissions
    first, and its first write is one that Redis refuses when it is out of memory. A call that failed for want of an answer
    may have been carried out; with an idempotency key or an occurrence it can be repeated without effect.

Errors
    `BrokerUnavailable`: try again later; `BrokerBusy` says when. `BrokerRefused`: the same call will fail again. An answer that
    cannot be read is a refusal of that call alone. Replies that are no replies break the connection, which is made again.

Time
    Redis' clock decides about ages, activity and stalls. Deadlines and pauses are the relay's own, on its monotonic clock.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol

from relay_wire.publications import ScriptCall

#: Runs calls of scripts: in order for each server, in one round trip. Returns the answers, with a BrokerError in place of a
#: failed call's. Raises BrokerUnavailable when no Redis can be reached; any of the calls may have been carried out then.
RunCalls = Callable[[Sequence[ScriptCall]], Awaitable[list[Any]]]


class ImmediateCalls(Protocol):
    """Runs scripts from where nothing may wait. `RunCalls` waits for the answers, and does the same where this cannot."""

    def start(self, calls: Sequence[ScriptCall]) -> bool:
        """Write calls at once. Returns False if that is not possible now. `RunCalls` with the same calls waits for them."""

    def poll(self) -> Sequence[Any] | None:
        """Return the answers to the calls that were started, and forget these; None while answers are missing.

        Raises:
            RedisError: A call was refused, none was started, or the connection failed. `RunCalls` is to run all of them again.
            OSError: The connection failed; the same.
        """


#: Takes a Redis channel's name and a message's bytes. It must neither block nor raise.
MessageHandler = Callable[[str, bytes], None]


class PubSubReceiver(Protocol):
    """Receives what the subscription brings on Relay's own channels. Nothing here waits."""

    def on_up(self) -> None:
        """Note that a new connection is up; it has no subscriptions yet."""

    def on_down(self, redis_channels: Collection[str]) -> None:
        """Note that a connection is gone that had been asked for these channels."""

    def on_confirmed(self, redis_channel: str) -> None:
        """Note that from here on all messages on a channel arrive."""

    def on_message(self, redis_channel: bytes, message: bytes) -> bool:
        """Take a message; return whether so much is waiting that the turn should end."""

    def on_receiving(self, is_receiving: bool) -> None:
        """Note that a turn's messages are about to come, or have all come: what has gathered is to be sent."""
