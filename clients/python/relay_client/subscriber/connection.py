"""One connection: the handshake, then reading and writing until either ends it.

What to send, to believe and to do next is decided in `subscriptions`, `heartbeat` and `websocket`; this performs it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from relay_client.subscriber.errors import SubscriptionError
from relay_client.subscriber.heartbeat import Health, Heartbeat
from relay_client.subscriber.limits import ConnectionChange, Limits
from relay_client.subscriber.reconnect import Disconnect
from relay_client.subscriber.runtime import Runtime, Signal, Stream
from relay_client.subscriber.subscriptions import ProtocolError, Subscriptions
from relay_client.subscriber.token import Token, TokenFailed, get_token
from relay_client.subscriber.websocket import WebSocket

#: Seconds that the closing handshake may take.
CLOSE_TIMEOUT = 1.0

_BROKE = "the connection broke"


@dataclass(frozen=True, slots=True)
class Signals:
    """Events that tasks of one subscription wait for: updates to take, room for more, requests to send, answers of the relay,
    the end of a connection."""

    update_available: Signal
    room_available: Signal
    request_available: Signal
    answer_available: Signal
    connection_ended: Signal

    @classmethod
    def of(cls, runtime: Runtime) -> "Signals":
        """Make them."""
        new = runtime.new_signal
        return cls(new(), new(), new(), new(), new())


async def open_websocket(stream: Stream, websocket: WebSocket) -> Disconnect | None:
    """Perform the opening handshake. Return None when the WebSocket is open, otherwise why it is not."""
    try:
        await stream.send_all(websocket.data_to_send())
        while not websocket.is_open:
            data = await stream.receive_some()
            if not data:
                return Disconnect("the connection was closed during the handshake")
            websocket.receive_data(data)
            if websocket.ended is not None:
                return Disconnect(
                    websocket.ended.why, status=websocket.ended.status, retry_after=websocket.ended.retry_after
                )
    except OSError:
        return Disconnect("the connection was closed during the handshake")
    return None


class Connection:
    """An open WebSocket and its subscriptions. `run` it once; it does not close the stream."""

    def __init__(
        self,
        runtime: Runtime,
        stream: Stream,
        websocket: WebSocket,
        subscriptions: Subscriptions,
        limits: Limits,
        signals: Signals,
        on_connection: Callable[[ConnectionChange], None],
        token: Token | None = None,
    ) -> None:
        self._token = token
        self._on_connection = on_connection
        self._is_unavailable = False
        self._runtime = runtime
        self._stream = stream
        self._websocket = websocket
        self._subscriptions = subscriptions
        self._limits = limits
        self._signals = signals
        self._opened_at = runtime.current_time()
        self._heartbeat = Heartbeat(limits.heartbeat, limits.heartbeat_timeout, self._opened_at)
        self._is_closing = False
        self._ended: Disconnect | SubscriptionError | None = None

    async def run(self) -> Disconnect:
        """Read and write until the connection ends, and return how. Raises SubscriptionError if the relay refuses a request."""
        await self._runtime.run_until_first_ends(self._read, self._write)
        if isinstance(self._ended, SubscriptionError):
            raise self._ended
        assert self._ended is not None
        return self._ended

    def close(self) -> None:
        """Start the closing handshake. `run` returns when it is complete."""
        self._is_closing = True
        self._websocket.close()
        self._signals.request_available.notify()
        self._signals.room_available.notify()

    def _end(self, why: str, code: int | None = None, retry_after: float = 0.0) -> None:
        if self._ended is None:
            lasted = self._runtime.current_time() - self._opened_at
            self._ended = Disconnect(why, lasted, code, retry_after=retry_after)

    async def _read(self) -> None:
        """Take what arrives. While the consumer's queue is full nothing is read, so that the relay notices."""
        websocket = self._websocket
        try:
            await self._take_messages()  # what came right behind the handshake
            while websocket.ended is None:
                try:
                    data = await self._stream.receive_some()
                except OSError:
                    data = b""
                if not data:
                    self._end(_BROKE, 1006)
                    return
                self._heartbeat.received(self._runtime.current_time())
                websocket.receive_data(data)
                await self._take_messages()
        except ProtocolError as error:
            self._end(f"the relay sent something unexpected: {error}")
            return
        except SubscriptionError as error:
            self._ended = error
            return
        self._end(websocket.ended.why, websocket.ended.code, websocket.ended.retry_after)
        await self._finish_closing()

    async def _take_messages(self) -> None:
        subscriptions, signals = self._subscriptions, self._signals
        while True:
            while subscriptions.is_full and not self._is_closing:
                signals.update_available.notify()
                self._heartbeat.pause()
                await signals.room_available.wait()
                self._heartbeat.resume(self._runtime.current_time())
            message = self._websocket.next_message()
            if message is None:
                break
            subscriptions.receive(message, self._runtime.current_time())
        if subscriptions.is_unavailable != self._is_unavailable:
            self._is_unavailable = subscriptions.is_unavailable
            again = "the relay cannot reach Redis" if self._is_unavailable else "the relay can reach Redis again"
            self._on_connection(ConnectionChange(True, again, is_redis_available=not self._is_unavailable))
        signals.update_available.notify()
        signals.answer_available.notify()
        signals.request_available.notify()

    async def _finish_closing(self) -> None:
        """Have the last frame sent, and wait until the relay closes the socket, which is its part (RFC 6455 section 7.1.1)."""
        self._signals.request_available.notify()
        try:
            async with self._runtime.deadline(self._runtime.current_time() + CLOSE_TIMEOUT):
                while await self._stream.receive_some():
                    pass
        except (TimeoutError, OSError):
            return

    async def _write(self) -> None:
        """Send what is to be sent, and watch over the relay's silence."""
        runtime, websocket, limits = self._runtime, self._websocket, self._limits
        while True:
            now = runtime.current_time()
            if websocket.ended is None:
                match self._heartbeat.check(now):
                    case Health.PING_DUE:
                        self._subscriptions.request_ping()
                    case Health.LOST:
                        self._end(f"the relay has been silent for {limits.heartbeat + limits.heartbeat_timeout:g} s")
                        return
                await self._renew_token()
                while (request := self._subscriptions.next_request(now)) is not None:
                    websocket.send_text(request)
            data = websocket.data_to_send()
            try:
                if data:
                    async with runtime.deadline(now + limits.heartbeat_timeout):
                        await self._stream.send_all(data)
                    continue
                async with runtime.deadline(self._wake_at(now)):
                    await self._signals.request_available.wait()
            except TimeoutError:
                if data:
                    self._end(f"the relay has not read for {limits.heartbeat_timeout:g} s")
                    return
            except OSError:
                self._end(_BROKE, 1006)
                return

    async def _renew_token(self) -> None:
        """Get another token when the relay says that the present one ends. Without one the relay closes the connection."""
        if not self._subscriptions.is_token_due:
            return
        self._subscriptions.is_token_due = False
        if self._token is None or isinstance(self._token, str):
            return
        try:
            self._subscriptions.renew(await get_token(self._runtime, self._token, self._limits.connect_timeout))
        except TokenFailed as error:
            self._on_connection(ConnectionChange(True, str(error)))

    def _wake_at(self, now: float) -> float:
        if self._websocket.ended is not None:
            return math.inf
        return min(self._heartbeat.next_check, self._subscriptions.wake_at(now))
