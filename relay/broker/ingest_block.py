"""Many plain messages in one call of a script: what each of them costs is what counts here.

All messages are one argument in MessagePack. Arguments of their own, some 15 for each message, would cost as much as all else
that is done to record it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from relay_wire import keys, scripts
from relay_wire.creation import NO_OPTIONS, CreationOptions, wire_args
from relay_wire.position import new_epoch
from relay_wire.publications import Occurrence, Retention, ScriptCall
from relay_wire.statuses import status_class

_NO_OPTIONS = wire_args(NO_OPTIONS)

_encode = msgspec.msgpack.Encoder().encode


class IngestBlock:
    """One call that records several plain messages, in order, each as `publications.ingest_call` does. Not for a cluster.

    Its answer has for each message how often it had been recorded before the caller began to count, or -1 less that number if
    this occurrence of it had been recorded, or an error.
    """

    __slots__ = ("_messages", "_values", "count", "size")

    #: Messages and bytes of data in one call at most, give or take one: Redis does nothing else meanwhile.
    MAX_COUNT = 64
    MAX_SIZE = 256 * 1024

    def __init__(self, retention: Retention, remember_ms: int) -> None:
        """Make a call without messages.

        Args:
            retention: How much is kept, and for how long.
            remember_ms: How long Redis remembers the messages' digests, in milliseconds.
        """
        self._messages: list[list[Any]] = []
        self._values: list[Any] = [new_epoch(), *retention.wire_args, remember_ms]
        self.count = 0
        self.size = 0

    @property
    def is_full(self) -> bool:
        """Whether no more messages should be added."""
        return self.count >= self.MAX_COUNT or self.size >= self.MAX_SIZE

    def add(
        self,
        channel: str,
        kind: str,
        data: bytes,
        occurrence: Occurrence,
        fields: Mapping[str, bytes | msgspec.Raw] | None = None,
        status: str | None = None,
        options: CreationOptions = NO_OPTIONS,
    ) -> None:
        """Add a message.

        Args:
            channel: As for `publications.ingest_call`, and so are the others.
            kind: The update's type.
            data: JSON text in UTF-8.
            occurrence: Which one of several equal messages it is.
            fields: For a task: the JSON text of each field.
            status: For a task: its status.
            options: For a task: its owner and its parent.
        """
        self.count += 1
        self.size += len(data)
        owner, parent = _NO_OPTIONS if options is NO_OPTIONS else wire_args(options)
        digest, number, since_ms, _ = occurrence
        state_class = "" if status is None else status_class(status)
        # Redis' MessagePack is an old one: it has texts, and no bytes.
        message = [
            keys.channel_keys(channel)[0], kind, data.decode(), state_class, owner, parent, digest, number, since_ms
        ]  # fmt: skip
        if fields:
            for name, value in fields.items():
                message.append(name)
                message.append(str(value, "utf-8"))
        self._messages.append(message)

    def script_call(self) -> ScriptCall:
        """Return the call of the script. Only with a message."""
        return ScriptCall(scripts.load("ingest_many"), [self._messages[0][0]], [*self._values, _encode(self._messages)])
