"""Who follows a task by its owner, so that they can be asked again when the task changes hands."""

from typing import Protocol


class OwnerWatcher(Protocol):
    """A client that follows tasks by their owners."""

    def on_owner(self, channel: str, owner: frozenset[str]) -> None:
        """Take the news of a task's owner. It may leave the channel while doing so."""


class OwnedChannels:
    """The channels of tasks that are followed by their owners."""

    def __init__(self) -> None:
        self._by_channel: dict[str, dict[OwnerWatcher, None]] = {}

    def __len__(self) -> int:
        return len(self._by_channel)

    def add(self, channel: str, watcher: OwnerWatcher) -> None:
        """Note that a client follows a channel by its owner. Repeating it changes nothing."""
        self._by_channel.setdefault(channel, {})[watcher] = None

    def remove(self, channel: str, watcher: OwnerWatcher) -> None:
        """Undo `add`."""
        watchers = self._by_channel.get(channel)
        if watchers is not None:
            watchers.pop(watcher, None)
            if not watchers:
                del self._by_channel[channel]

    def on_owner(self, channel: str, owner: frozenset[str]) -> None:
        """Pass on the news of a task's owner; who may not follow the task any longer leaves it before this returns."""
        for watcher in list(self._by_channel.get(channel, ())):
            watcher.on_owner(channel, owner)
