"""What a publisher sends, as a subscriber of Redis receives it."""

from relay_wire.publications import Retention

from tests.harness import RedisServer, eventually

#: What tests look at must not be trimmed meanwhile.
KEEP_ALL = Retention(history_size=1_000_000)


class ReceivedMessages:
    """What is published on some Redis channels, as it comes."""

    def __init__(self, server: RedisServer, *channels: str) -> None:
        self._client = server.client()
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._pubsub.subscribe(*channels)
        eventually(lambda: self._pubsub.subscribed)
        self._pubsub.get_message(timeout=5.0)

    def next(self) -> tuple[str, bytes]:
        message = eventually(lambda: self._pubsub.get_message(timeout=0.1))
        return message["channel"].decode(), message["data"]

    def __enter__(self) -> "ReceivedMessages":
        return self

    def __exit__(self, *error: object) -> None:
        self._pubsub.close()
        self._client.close()
