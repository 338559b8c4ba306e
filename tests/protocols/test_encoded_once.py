"""One update to a thousand subscribers of each way in: encoded once for each format, and shared by all of them."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any

import pytest

from relay.core.batches import Batch, Encoding, Framing, format_of
from relay.core.channels import ChannelPatterns
from relay.core.grants import NOTHING
from relay.core.hub import Hub
from relay.core.recovery import Snapshot
from relay.core.topics import TOPICS
from relay.core.updates import Position, Update
from relay.protocols.base import Command, Subscribe
from relay.protocols.centrifuge_commands import Codec
from relay.protocols.centrifuge_json import JsonCodec
from relay.protocols.centrifuge_protobuf import ProtobufCodec
from relay.protocols.mercure import MercureProtocol, read_selectors
from relay.protocols.mercure_forms import TOPIC_UPDATE, TopicUpdate, stored_form
from relay.protocols.sse import SseProtocol
from relay.protocols.task_events import TaskEventsProtocol
from relay.protocols.tasks import TasksProtocol
from relay.server.asgi_transport import AsgiTransport
from relay.server.emulated_transports import FRAMINGS, event, line
from relay.server.sse_endpoint import EventSocketTransport
from relay.server.transports import BinarySocketTransport, SocketTransport
from tests.protocols.centrifuge_client import Client

SUBSCRIBERS = 1000
NO_CHANNELS = ChannelPatterns(())
AT = Position("5d8b85661e74", 7)


def tasks(message: str) -> Iterable[Command]:
    return TasksProtocol(NO_CHANNELS).receive(message)


def centrifuge(codec: Codec, **more: Any) -> Iterable[Command]:
    client = Client(codec=codec)
    if codec.is_binary:
        client.run(client.protocol.receive(b"\x04\x08\x01\x22\x00" + b"\x0c\x08\x02\x2a\x08\x0a\x06task:t"))
    else:
        client.connect()
        client.follow("task:t", **more)
    return client.commands


def mercure() -> Iterable[Command]:
    selectors = read_selectors([("topic", "https://x/{id}")], NO_CHANNELS, 100)
    return MercureProtocol(selectors, NOTHING, None, AT).open()


JSON, PROTOBUF = JsonCodec(), ProtobufCodec()
TEXTS, EVENTS = SocketTransport.framing, EventSocketTransport.framing

#: Each way in: what a client asks for, and how its messages are framed.
WAYS: dict[str, tuple[Callable[[], Iterable[Command]], Framing]] = {
    "/ws/tasks": (partial(tasks, '{"type":"subscribe","task_id":"t"}'), TEXTS),
    "/ws/tasks on ASGI": (partial(tasks, '{"type":"subscribe","task_id":"t"}'), AsgiTransport.framing),
    "positions": (partial(tasks, '{"type":"subscribe","task_id":"t","position":null}'), TEXTS),
    "/events": (lambda: SseProtocol(["task:t"], None).open(), EVENTS),
    "task events": (lambda: TaskEventsProtocol(NO_CHANNELS, '[{"task_id":"t"}]').open(), EVENTS),
    "Centrifuge in JSON": (partial(centrifuge, JSON), TEXTS),
    "Centrifuge in Protocol Buffers": (partial(centrifuge, PROTOBUF), BinarySocketTransport.framing),
    "Centrifuge, deltas": (partial(centrifuge, JSON, data={"deltas": True}), TEXTS),
    "/connection/sse": (partial(centrifuge, JSON), FRAMINGS[event, True]),
    "/connection/http_stream": (partial(centrifuge, JSON), FRAMINGS[line, False]),
    "Mercure": (mercure, EVENTS),
}


class RecordingSubscriber:
    """Keeps what it is offered."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def offer(self, batch: Batch) -> None:
        self.batches.append(batch)


def test_an_update_is_encoded_once_for_each_format(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(on_pending=lambda: None)
    subscribers: dict[str, list[RecordingSubscriber]] = {}
    formats, encodings = set(), set()
    for way, (open_client, framing) in WAYS.items():
        subscribers[way] = [RecordingSubscriber() for _ in range(SUBSCRIBERS)]
        for subscriber in subscribers[way]:
            *_, command = (each for each in open_client() if isinstance(each, Subscribe))
            format = format_of(command.encoding, framing)
            hub.subscribe(subscriber, command.channel, format)
            formats.add(format)
            encodings.add(command.encoding)
    assert len(formats) == len(WAYS)  # those that share an encoding differ in their framing

    for channel in ("task:t", TOPICS):
        hub.catch_up(channel, Snapshot(Position(AT.epoch, AT.offset - 1), [], None))

    calls: Counter[Encoding] = Counter()
    for encoding in encodings:

        def counted(update: Update, encoding: Encoding = encoding, encode: Any = encoding.encode) -> Any:
            calls[encoding] += 1
            return encode(update)

        monkeypatch.setattr(encoding, "encode", counted)
    hub.on_publication(Update("task:t", "task_update", b'{"a":1}', monotonic(), AT))
    topic = stored_form(TopicUpdate(["https://x/7"], "a", False))
    hub.on_publication(Update(TOPICS, TOPIC_UPDATE, topic, monotonic(), AT))
    hub.flush()

    assert calls == Counter(format.encoding for format in formats)
    for way, those in subscribers.items():
        (batch,) = those[0].batches
        assert batch.count == 1, way
        assert batch.size > 0, way
        assert all(subscriber.batches == [batch] for subscriber in those), way
