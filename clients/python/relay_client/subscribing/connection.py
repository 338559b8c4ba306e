"""The one connection of a subscriber: made, read, written, closed, and made again.

The I/O is here, in three tasks: one keeps a connection and reads it; while there is one, a second writes to it, and one of
trio-websocket takes its bytes apart. What to say, to believe and to do next is decided in `subscriptions` and `reconnect`.
"""

from collections.abc import Callable
from typing import Any

import h11
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, WebSocketConnection
from wsproto.utilities import ProtocolError as WebSocketProtocolError

from relay_client.subscribing.limits import ConnectionChange, Limits
from relay_client.subscribing.line import Broken, Target, shake_hands
from relay_client.subscribing.reconnect import Ended, Reconnect
from relay_client.subscribing.subscriptions import Confused, Subscriptions
from relay_client.subscribing.updates import SubscriptionError

#: What comes out of trio-websocket's reader when the other side speaks something else.
_PROTOCOL_ERRORS = (WebSocketProtocolError, h11.ProtocolError)

#: Seconds that the closing handshake may take.
_CLOSE_TIMEOUT = 1.0


class Keeper:
    """Keeps a connection for some subscriptions.

    ended: why there will be no more updates; None as long as there may be

    Tasks wait in its lots: consumers for updates that `arrived`, the reader for `room`, the writer for what is `asked`, others
    for what is `answered`.
    """

    def __init__(
        self,
        target: Target,
        subscriptions: Subscriptions,
        limits: Limits,
        on_connection: Callable[[ConnectionChange], None],
    ) -> None:
        self._target = target
        self._subscriptions = subscriptions
        self._limits = limits
        self._on_connection = on_connection
        self._connection: WebSocketConnection | None = None
        self._is_leaving = False
        self.ended: Exception | None = None
        self.arrived = trio.lowlevel.ParkingLot()
        self.room = trio.lowlevel.ParkingLot()
        self.asked = trio.lowlevel.ParkingLot()
        self.answered = trio.lowlevel.ParkingLot()

    def end(self, error: Exception) -> None:
        """There will be no more updates. The first reason stays."""
        if self.ended is None:
            self.ended = error
        self.arrived.unpark_all()
        self.answered.unpark_all()

    async def run(self) -> None:
        """Keep a connection, until there is to be none any more. Cancelled, it closes what is open at once."""
        limits = self._limits
        reconnect = Reconnect(limits.retry_base, limits.retry_cap, limits.give_up_after, trio.current_time())
        while self.ended is None:
            try:
                ended = await self._connect()
                delay = reconnect.delay_after(ended, trio.current_time())
            except SubscriptionError as error:
                if self.ended is None:
                    self._on_connection(ConnectionChange(False, str(error)))
                self.end(error)
                return
            if self.ended is None:
                self._on_connection(ConnectionChange(False, ended.why, delay))
            await trio.sleep(delay)

    async def say_goodbye(self) -> None:
        """Close the connection as the protocol wants it, if there is one and if that is quick. `end` comes first."""
        if self._connection is not None:
            self._is_leaving = True
            with trio.move_on_after(_CLOSE_TIMEOUT):
                await self._connection.aclose()

    async def _connect(self) -> Ended:
        """One connection, from its beginning to its end. Raises SubscriptionRefused."""
        target, limits, subscriptions = self._target, self._limits, self._subscriptions
        deadline = trio.current_time() + limits.connect_timeout
        try:
            with trio.fail_at(deadline):
                line = await target.open_line()
        except (Broken, trio.TooSlowError) as error:
            why = error if isinstance(error, Broken) else f"no answer within {limits.connect_timeout:g} s"
            is_wrong = isinstance(error, Broken) and error.is_wrong
            return Ended(f"cannot connect to {target.url}: {why}", is_wrong=is_wrong)
        opened: float | None = None
        errors: list[BaseException] = []
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_at(deadline):
                    connection = await shake_hands(nursery, line, target, limits.max_message)
                opened = trio.current_time()
                self._connection = connection
                subscriptions.connected()
                self._on_connection(ConnectionChange(True, f"connected to {target.url}"))
                nursery.start_soon(self._write, connection)
                try:
                    await self._read(connection)
                except ConnectionClosed:
                    if self._is_leaving:  # the answer to our goodbye is still to be read, by trio-websocket
                        await trio.sleep_forever()
                    raise
        except* (
            Broken,
            Confused,
            ConnectionClosed,
            HandshakeError,
            *_PROTOCOL_ERRORS,
            SubscriptionError,
            trio.TooSlowError,
        ) as group:
            errors = _leaves(group)
        finally:
            self._connection = None
            subscriptions.disconnected()
            await trio.aclose_forcefully(line)
        for cause in errors:
            if isinstance(cause, SubscriptionError):
                raise cause
        if opened is not None:
            return self._ended_by(errors, trio.current_time() - opened)
        return self._refused_by(errors)

    async def _read(self, connection: WebSocketConnection) -> None:
        """Read for ever; while the queue is full nothing is read, so that the relay notices. Raises TooSlowError when it is
        silent."""
        limits, subscriptions = self._limits, self._subscriptions
        while True:
            while subscriptions.is_full:
                await self.room.park()
            message: str | bytes | None = None
            with trio.move_on_after(limits.heartbeat):
                message = await connection.get_message()
            if message is None:
                subscriptions.beat()
                self.asked.unpark_all()
                with trio.fail_after(limits.heartbeat_timeout):
                    message = await connection.get_message()
            subscriptions.receive(message, trio.current_time())
            self.arrived.unpark_all()
            self.asked.unpark_all()
            self.answered.unpark_all()

    async def _write(self, connection: WebSocketConnection) -> None:
        """Send what is to be sent, for ever. Raises TooSlowError when the relay does not take it."""
        while True:
            now = trio.current_time()
            request = self._subscriptions.next_request(now)
            if request is None:
                with trio.move_on_at(self._subscriptions.wake_at(now)):
                    await self.asked.park()
            else:
                with trio.fail_after(self._limits.heartbeat_timeout):
                    await connection.send_message(request)

    def _refused_by(self, errors: list[BaseException]) -> Ended:
        """How a handshake ended."""
        why: object = "the handshake took too long"
        for error in errors:
            if isinstance(error, ConnectionRejected):
                return Ended(f"{self._target.url} answered {error.status_code}", status=error.status_code)
            if isinstance(error, (Broken, *_PROTOCOL_ERRORS)):
                why = error
        return Ended(f"cannot connect to {self._target.url}: {why}")

    def _ended_by(self, errors: list[BaseException], lasted: float) -> Ended:
        """How an open connection ended."""
        for error in errors:
            if isinstance(error, (Confused, *_PROTOCOL_ERRORS)):
                return Ended(f"the relay cannot be understood: {error}", lasted)
            reason = error.reason if isinstance(error, ConnectionClosed) else None
            if reason is not None and reason.code == 1006:
                return Ended("the connection broke", lasted, 1006)
            if reason is not None:
                why = f"closed: {reason.code} {reason.reason or reason.name}"
                is_excused = reason.code == 1008 and self._subscriptions.was_only_unavailable
                return Ended(why, lasted, reason.code, is_excused=is_excused)
        return Ended("the relay fell silent", lasted)


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return leaves
