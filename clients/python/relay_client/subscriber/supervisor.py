"""Keeps a connection up for one subscription: connects, runs it, and connects again."""

import logging
from collections.abc import Callable
from dataclasses import replace

from relay_client.subscriber.connection import CLOSE_TIMEOUT, Connection, Signals, open_websocket
from relay_client.subscriber.endpoint import Endpoint
from relay_client.subscriber.errors import SubscriptionError
from relay_client.subscriber.limits import ConnectionChange, Limits
from relay_client.subscriber.reconnect import Disconnect, Reconnect
from relay_client.subscriber.runtime import ConnectError, Runtime
from relay_client.subscriber.subscriptions import Subscriptions
from relay_client.subscriber.token import Token, TokenFailed, get_token

_log = logging.getLogger("relay_client")


def log_change(change: ConnectionChange) -> None:
    """Log a change of the connection; what `subscribe` does by default."""
    is_healthy = change.is_up and change.is_redis_available
    _log.log(logging.INFO if is_healthy else logging.WARNING, "%s", change)


class ConnectionSupervisor:
    """Keeps a connection up.

    Attributes:
        signals: What happens to the subscription.
        ended: Why there will be no more updates; None as long as there may be some.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Endpoint,
        subscriptions: Subscriptions,
        limits: Limits,
        on_connection: Callable[[ConnectionChange], None],
        token: Token | None = None,
    ) -> None:
        self._runtime = runtime
        self._token = token
        self._endpoint = endpoint
        self._subscriptions = subscriptions
        self._limits = limits
        self._on_connection = on_connection
        self._connection: Connection | None = None
        self.signals = Signals.of(runtime)
        self.ended: SubscriptionError | None = None

    def end(self, error: SubscriptionError) -> None:
        """There will be no more updates. The first reason stays."""
        if self.ended is None:
            self.ended = error
        self.signals.update_available.notify()
        self.signals.answer_available.notify()

    async def run(self) -> None:
        """Keep a connection up until the subscription ends. Cancelled, it closes what is open at once. Raises what
        `on_connection` raises."""
        try:
            await self._keep_connected()
        except Exception as error:
            failed = SubscriptionError(f"the subscriber has failed: {error!r}")
            failed.__cause__ = error
            self.end(failed)
            raise

    async def _keep_connected(self) -> None:
        runtime, limits = self._runtime, self._limits
        reconnect = Reconnect(limits.retry_base, limits.retry_cap, limits.give_up_after, runtime.current_time())
        while self.ended is None:
            try:
                disconnect = await self._connect_and_run()
                delay = reconnect.delay_after(disconnect, runtime.current_time())
            except SubscriptionError as error:
                if self.ended is None:
                    self._on_connection(ConnectionChange(False, str(error)))
                self.end(error)
                return
            if self.ended is None:
                self._on_connection(ConnectionChange(False, disconnect.why, delay))
                await runtime.sleep(delay)

    async def close(self) -> None:
        """Perform the closing handshake if there is a connection, within `CLOSE_TIMEOUT` seconds. Call `end` first."""
        if self._connection is None:
            return
        self._connection.close()
        try:
            async with self._runtime.deadline(self._runtime.current_time() + CLOSE_TIMEOUT):
                while self._connection is not None:
                    await self.signals.connection_ended.wait()
        except TimeoutError:
            return  # the caller cancels `run`, which aborts the connection

    async def _connect_and_run(self) -> Disconnect:
        """Run one connection, from its start to its end."""
        runtime, endpoint, limits = self._runtime, self._endpoint, self._limits
        token = None
        if self._token is not None:
            try:
                token = await get_token(runtime, self._token, limits.connect_timeout)
            except TokenFailed as error:
                return Disconnect(str(error))
        deadline = runtime.current_time() + limits.connect_timeout
        prefix = f"cannot connect to {endpoint.url}"
        try:
            async with runtime.deadline(deadline):
                stream = await runtime.connect(endpoint)
        except ConnectError as error:
            return Disconnect(f"{prefix}: {error}", certificate_invalid=error.certificate_invalid)
        except TimeoutError:
            return Disconnect(f"{prefix}: no answer within {limits.connect_timeout:g} s")
        try:
            websocket = endpoint.new_websocket(limits.max_message)
            try:
                async with runtime.deadline(deadline):
                    failed = await open_websocket(stream, websocket)
            except TimeoutError:
                failed = Disconnect(f"the handshake took more than {limits.connect_timeout:g} s")
            if failed is not None:
                return replace(failed, why=f"{prefix}: {failed.why}")
            connection = Connection(
                runtime, stream, websocket, self._subscriptions, limits, self.signals, self._on_connection, self._token
            )
            return await self._run(connection, token)
        finally:
            stream.abort()

    async def _run(self, connection: Connection, token: str | None) -> Disconnect:
        self._subscriptions.on_connected(token)
        self._connection = connection
        try:
            self._on_connection(ConnectionChange(True, f"connected to {self._endpoint.url}"))
            return await connection.run()
        finally:
            self._connection = None
            self._subscriptions.on_disconnected()
            self.signals.connection_ended.notify()
