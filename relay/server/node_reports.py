"""The answers of this relay to questions that go to all of them: what it is, and which channels its clients follow."""

from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from os import getpid
from socket import gethostname
from time import monotonic

import msgspec

from relay.core.client_directory import ClientDirectory
from relay.core.extra_channels import name_of
from relay.core.hub import Hub
from relay.core.topics import TOPICS
from relay.server.session_registry import SessionRegistry

#: The questions.
INFO = "info"
CHANNELS = "channels"

_json = msgspec.json.Encoder().encode
_decode_counts = msgspec.json.Decoder(dict[str, int]).decode


class NodeReports:
    """Answers for this relay.

    Args:
        hub: Where its clients subscribe.
        registry: Its clients.
        directory: Those of them that have an id, and their users.
    """

    def __init__(self, hub: Hub, registry: SessionRegistry, directory: ClientDirectory) -> None:
        self._directory = directory
        self._hub = hub
        self._registry = registry
        self._started = monotonic()

    def answer(self, uid: str, question: str) -> bytes:
        """Return the answer to a question, as JSON.

        Args:
            uid: This relay's name among the others.
            question: INFO or CHANNELS.
        """
        if question == INFO:
            return _json(self._info(uid))
        if question == CHANNELS:
            return _json({name_of(name): count for name, count in self._hub.listener_counts() if name != TOPICS})
        return b"null"

    def _info(self, uid: str) -> dict[str, object]:
        return {
            "uid": uid,
            "name": f"{gethostname()}_{getpid()}",
            "version": version("trio-relay"),
            "num_clients": len(self._registry),
            "num_users": self._directory.user_count,
            "num_channels": len(self._hub.channels),
            "num_subs": self._hub.subscriptions,
            "uptime": int(monotonic() - self._started),
        }


def merged_channels(answers: Iterable[bytes]) -> dict[str, int]:
    """Return how many clients follow each channel, over the answers of all relays. What cannot be read is left out."""
    counts: Counter[str] = Counter()
    for each in answers:
        try:
            counts.update(_decode_counts(each))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return dict(counts)
