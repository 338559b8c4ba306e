"""The other relays: what they have heard and not recorded yet comes before what a relay hears that begins to listen.

Whoever has connected anew has missed something, and another relay may be about to record just that. So it asks, on a channel
that all relays hear on the connection on which they hear plain publishes:

    one that has connected anew   -> ask <question>
    each, in its own time         -> done <question> <its name>

A relay that hears the question has heard everything that was published before it, and answers when all of that is recorded.
"""

import secrets
from collections.abc import Awaitable, Callable

import trio
from relay_client import keys

from relay.core.errors import BrokerRefused, BrokerUnavailable

#: Seconds after which the question is put again: it may not have been heard, or somebody has come or gone.
_AGAIN = 0.25


class Others:
    """Asks the other relays, and is asked by them.

    publish:  publishes a message on a channel; may raise BrokerError
    count:    how many listen to a channel; may raise BrokerError
    on_asked: told each question of another relay, which is to be answered with `answer`
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], Awaitable[int]],
        count: Callable[[str], Awaitable[int]],
        on_asked: Callable[[bytes], None],
    ) -> None:
        self._publish = publish
        self._count = count
        self._on_asked = on_asked
        self._name = secrets.token_hex(8).encode()
        self.start_hearing()

    def start_hearing(self) -> None:
        """A new connection is about to hear: a question that is under way is of no use any more."""
        self._question = secrets.token_hex(8).encode()
        self._own_is_heard = False
        self._done: set[bytes] = set()
        self._news = trio.Event()

    def hear(self, _channel: str, message: bytes) -> None:
        """What a relay has said, this one or another."""
        kind, _, rest = message.partition(b" ")
        question, _, name = rest.partition(b" ")
        if kind == b"ask" and question != self._question:
            self._on_asked(question)
        elif question == self._question:
            self._own_is_heard = self._own_is_heard or kind == b"ask"
            if kind == b"done":
                self._done.add(name)
            self._news.set()

    async def ask(self) -> int | None:
        """Wait until all that the others had heard before us is recorded; returns how many there are. None: who they are
        cannot be found out, or another connection has begun. Waits for ever for one that does not answer."""
        question = self._question
        while question == self._question:
            self._news = trio.Event()
            try:
                await self._publish(keys.ORDER, b"ask " + question)
                # Heard by us, it is behind all that we have missed.
                others = await self._count(keys.ORDER) - 1 if self._own_is_heard else None
            except BrokerUnavailable:
                others = None
            except BrokerRefused:
                return None
            if others is not None and len(self._done) >= others:
                return others
            with trio.move_on_after(_AGAIN):
                await self._news.wait()
        return None

    async def answer(self, question: bytes) -> None:
        """All that we had heard before this question is recorded. Raises BrokerError."""
        await self._publish(keys.ORDER, b"done %b %b" % (question, self._name))
