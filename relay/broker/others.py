"""The other relays: what they have heard and not recorded yet comes before what a relay hears that begins to listen.

Whoever has connected anew has missed something, and another relay may be about to record just that. So it asks, on a channel
that all relays hear on the connection on which they hear plain publishes:

    one that has connected anew           -> ask <question>
    each, in its own time                 -> done <question> <its name>
    one that has itself connected anew    -> held <question> <its name> <how much it has heard since>

A relay that hears the question has heard everything that was published before it, and answers when all of that is recorded. One
that holds back itself would never come to that if it waited for the asker: it says how much it has heard on its connection. Of
two that have heard the same question the one that has heard more was the first to listen, and has missed nothing that the other
one has heard; so that one goes on, and the other waits until it is done.
"""

import secrets
from collections.abc import Awaitable, Callable

import trio
from relay_wire import keys

from relay.core.errors import BrokerRefused, BrokerUnavailable

#: Seconds after which the question is put again: as long as we do not hear it ourselves, and then, since somebody may have come
#: or gone.
_UNHEARD = 0.05
_AGAIN = 0.25


class Others:
    """Asks the other relays, and is asked by them.

    publish:  publishes a message on a channel; may raise BrokerError
    count:    how many listen to a channel; may raise BrokerError
    heard:    tells how many plain publishes were heard on this connection
    on_asked: told each question of another relay, which is to be answered with `say_done`, and `say_held` before
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], Awaitable[int]],
        count: Callable[[str], Awaitable[int]],
        heard: Callable[[], int],
        on_asked: Callable[[bytes], None],
    ) -> None:
        self._publish = publish
        self._count = count
        self._heard = heard
        self._on_asked = on_asked
        self._name = secrets.token_hex(8).encode()
        self.start_hearing()

    def start_hearing(self) -> None:
        """A new connection is about to hear: a question that is under way is of no use any more."""
        self._question = secrets.token_hex(8).encode()
        #: How much was heard before each time that the question was put, and came back.
        self._heard_before: dict[bytes, int] = {}
        self._done: set[bytes] = set()
        self._news = trio.Event()

    def hear(self, _channel: str, message: bytes) -> None:
        """What a relay has said, this one or another."""
        kind, question, name, count = (*message.split(b" "), b"", b"", b"")[:4]
        if kind == b"ask" and not question.startswith(self._question):
            self._on_asked(question)
        elif kind == b"ask":
            self._heard_before[question] = self._heard()
        elif (kind == b"done" and question in self._heard_before) or (
            kind == b"held" and count.isdigit() and int(count) <= self._heard_before.get(question, -1)
        ):
            self._done.add(name)
        self._news.set()

    async def ask(self) -> int | None:
        """Wait until all that the others had heard before us is recorded; returns how many there are. None: who they are
        cannot be found out, or another connection has begun. Waits for ever for one that does not answer."""
        question, times = self._question, 0
        while question == self._question:
            self._news = trio.Event()
            times += 1
            others = None
            try:
                await self._publish(keys.BARRIER, b"ask %b-%d" % (question, times))
                if self._heard_before:  # so it is behind all that we have missed
                    others = await self._count(keys.BARRIER) - 1
            except BrokerUnavailable:
                pass
            except BrokerRefused:
                return None
            if others is not None and len(self._done) >= others:
                return others
            with trio.move_on_after(_AGAIN if self._heard_before else _UNHEARD):
                await self._news.wait()
        return None

    async def say_done(self, question: bytes) -> None:
        """All that we had heard before this question is recorded. Raises BrokerError."""
        await self._publish(keys.BARRIER, b"done %b %b" % (question, self._name))

    async def say_held(self, question: bytes, heard: int) -> None:
        """We hold back what we have heard on this connection, and had heard so much before this question; all of earlier
        connections is recorded. Raises BrokerError."""
        await self._publish(keys.BARRIER, b"held %b %b %d" % (question, self._name, heard))
