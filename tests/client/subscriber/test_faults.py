"""A connection that fails after any byte: the subscriber reconnects, misses nothing, and leaves nothing open.

The network is in memory and the clock is Trio's mock clock, so that time-outs cost nothing.
"""

import json
from collections.abc import Callable
from itertools import count

import pytest
import trio
from relay_client.subscriber import Limits
from relay_client.subscriber.endpoint import Endpoint
from relay_client.subscriber.runtime import ConnectError, Stream
from relay_client.subscriber.subscription import new_subscription, running
from relay_client.subscriber.trio import TrioRuntime
from trio.testing import MockClock, memory_stream_pair
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from tests.client.subscriber.test_subscriptions_model import CHANNELS, Consumer, ModelRelay

MemoryStream = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]

#: Updates of each channel.
UPDATES = 4


def _fail_by_end(_: bytes) -> bytes:
    return b""


def _fail_by_reset(_: bytes) -> bytes:
    raise ConnectionResetError


def _garble(data: bytes) -> bytes:
    return bytes(byte ^ 0x55 for byte in data)


class FaultyStream:
    """The client's end of a connection. After so many bytes of the relay every further read does what `fault` does."""

    def __init__(self, stream: MemoryStream, good_bytes: float, fault: Callable[[bytes], bytes] | None) -> None:
        self._stream = stream
        self._good_bytes = good_bytes
        self._fault = fault
        self.received = 0
        self.is_aborted = False

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise ConnectionResetError from error

    async def receive_some(self) -> bytes:
        left = self._good_bytes - self.received
        data = bytes(await self._stream.receive_some(int(min(left, 65536)) or 1))
        if left > 0:
            self.received += len(data)
            return data
        if self._fault is None:
            await trio.sleep_forever()
            raise AssertionError
        return self._fault(data)

    def abort(self) -> None:
        self.is_aborted = True
        self._stream.send_stream.close()
        self._stream.receive_stream.close()


class FaultyNetwork(TrioRuntime):
    """Connects to a model of a relay. The first connection fails, later ones do not."""

    def __init__(
        self, nursery: trio.Nursery, relay: ModelRelay, good_bytes: float, fault: Callable[[bytes], bytes] | None
    ) -> None:
        self._nursery = nursery
        self._relay = relay
        self._first = (good_bytes, fault)
        self.streams: list[FaultyStream] = []

    async def connect(self, endpoint: Endpoint) -> Stream:
        await trio.lowlevel.checkpoint()
        if len(self.streams) > 1:
            raise ConnectError("one failure is enough")
        client, server = memory_stream_pair()
        stream = FaultyStream(client, *(self._first if not self.streams else (float("inf"), None)))
        self.streams.append(stream)
        self._nursery.start_soon(self._serve, server)
        return stream

    async def _serve(self, stream: MemoryStream) -> None:
        """What a relay does with one connection. With every request it also publishes."""
        connection = WSConnection(ConnectionType.SERVER)
        self._relay.cut()
        try:
            async for data in stream:
                connection.receive_data(bytes(data))
                for event in connection.events():
                    match event:
                        case Request():
                            await stream.send_all(connection.send(AcceptConnection()))
                        case TextMessage(data=text):
                            self._relay.receive(json.loads(text))
                            self._publish()
                            for message in self._relay.wire:
                                await stream.send_all(connection.send(TextMessage(json.dumps(message))))
                            self._relay.wire.clear()
                        case CloseConnection():
                            await stream.send_all(connection.send(event.response()))
                            return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    def _publish(self) -> None:
        for name in CHANNELS:
            if len(self._relay.published[name]) < UPDATES:
                self._relay.publish(name)


async def follow_all(good_bytes: float, fault: Callable[[bytes], bytes] | None) -> int:
    """Take every update, though the first connection fails. Return the bytes that it had received."""
    relay = ModelRelay()
    consumer = Consumer(relay, is_folded=False)
    limits = Limits(heartbeat=1.0, heartbeat_timeout=1.0, connect_timeout=5.0, retry_base=0.1)
    async with trio.open_nursery() as nursery:
        network = FaultyNetwork(nursery, relay, good_bytes, fault)
        parts = new_subscription(
            network, "ws://relay", ["a", "b"], general=True, limits=limits, on_connection=lambda _: None
        )
        with trio.fail_after(1000):
            async with running(network, *parts) as updates:
                while any(
                    len(relay.published[name]) < UPDATES or updates.positions.get(name) != ("e0", UPDATES)
                    for name in CHANNELS
                ):
                    consumer.take(await anext(updates))
    assert all(stream.is_aborted for stream in network.streams)
    return network.streams[0].received


@pytest.mark.parametrize("fault", [_fail_by_end, _fail_by_reset, _garble, None])
def test_a_connection_that_fails_after_any_byte(fault: Callable[[bytes], bytes] | None) -> None:
    """None: it falls silent."""
    total = trio.run(follow_all, float("inf"), None, clock=MockClock(autojump_threshold=0))
    for good_bytes in count(0, 19):
        if good_bytes > total:
            break
        trio.run(follow_all, good_bytes, fault, clock=MockClock(autojump_threshold=0))
    assert good_bytes > 500
