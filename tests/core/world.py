"""A model of Redis for tests of the core: channels with positions, their history and their state, without I/O."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from relay.core.batches import Format, Framing
from relay.core.recovery import Snapshot
from relay.core.shared_updates import SharedUpdates
from relay.core.updates import Position, Update

CHANNELS = ("task:a", "task:b")

#: Updates that the model keeps of a channel.
KEPT = 6

JsonObject = dict[str, Any]


def joined(frames: Iterable[Any]) -> Any:
    return tuple(frames)


LINES = Framing(lambda payload: payload, joined)


class Numbered:
    """Shows everything: what it is, its position, and the data."""

    stateful = False

    def __init__(self, *, whole_values: bool = False) -> None:
        self.whole_values = whole_values

    def hides(self, update: Update) -> bool:
        return False

    def encode(self, update: Update) -> bytes:
        return json.dumps(["update", update.channel, update.position, json.loads(update.data)]).encode()

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        data = json.loads(snapshot.state.data) if snapshot.state else {}
        return [json.dumps(["reset", channel, snapshot.top, data]).encode()]


NUMBERED = Format(Numbered(), LINES)
#: The same for clients that know of no positions; a format of its own.
PLAIN = Format(Numbered(), LINES)
#: The same for clients that know no operations.
WHOLE = Format(Numbered(whole_values=True), LINES)


def update_of(channel: str, position: Position | None, data: JsonObject) -> Update:
    has_operations = any(isinstance(value, dict) for value in data.values())
    return Update(channel, "task_update", json.dumps(data).encode(), 0.0, position, has_operations)


def updates(epoch: str, *offsets: int) -> list[Update]:
    return [update_of("task:t", Position(epoch, offset), {"n": offset}) for offset in offsets]


@dataclass
class Line:
    """A channel as Redis keeps it."""

    epoch: int = 0
    entries: list[JsonObject] = field(default_factory=list)  # all of this epoch
    first_kept: int = 1
    state: JsonObject = field(default_factory=dict)
    #: Most updates append to a text as well.
    appends: bool = False
    #: Of all epochs: what was published at a position.
    history: dict[tuple[str, int], JsonObject] = field(default_factory=dict)

    @property
    def top(self) -> Position:
        return Position(f"e{self.epoch:06}", len(self.entries))

    def publish(self, number: int) -> Position:
        data: JsonObject = {f"k{number % 3}": number}
        self.state.update(data)
        if self.appends and number % 3:
            data["text"] = {"$append": f"{number};"}
            self.state["text"] = self.state.get("text", "") + f"{number};"
        self.entries.append(data)
        self.first_kept = max(self.first_kept, len(self.entries) - KEPT + 1)
        self.history[self.top] = data
        return self.top

    def lose(self) -> None:
        self.epoch += 1
        self.entries, self.state, self.first_kept = [], {}, 1

    def snapshot(self, channel: str, since: Position | None, limit: int = KEPT) -> Snapshot:
        """What the read script answers, with `limit` entries at most."""
        entries = None
        kept = since is not None and since.epoch == self.top.epoch and self.first_kept - 1 <= since.offset
        if since is not None and kept and since.offset <= self.top.offset:
            entries = SharedUpdates(
                update_of(channel, Position(since.epoch, offset), self.entries[offset - 1])
                for offset in range(since.offset + 1, min(self.top.offset, since.offset + limit) + 1)
            )
        state = update_of(channel, self.top, {**self.state}) if self.state else None
        return Snapshot(self.top, entries, state)
