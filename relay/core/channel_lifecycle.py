"""The life of a channel in this process: from its first subscriber, through Redis' confirmation and the catching up, to live.

`ChannelLifecycles` keeps one state for each channel. It performs nothing: the broker asks what is due, does it, and reports.
"""

from collections.abc import Iterable
from enum import Enum, auto
from itertools import islice
from typing import Generic, TypeVar


class ChannelState(Enum):
    """Where a channel stands; the table is in `ChannelLifecycles`."""

    NEEDED = auto()
    SUBSCRIBING = auto()
    BEHIND = auto()
    CATCHING_UP = auto()
    OUTDATED = auto()
    LIVE = auto()
    REFUSED = auto()
    LEAVING = auto()
    LEAVING_UNCONFIRMED = auto()


class ChannelEvent(Enum):
    """An event in a channel's life."""

    WANTED = auto()
    UNWANTED = auto()
    SUBSCRIBE_SENT = auto()
    UNSUBSCRIBE_SENT = auto()
    CONFIRMED = auto()
    GAP = auto()
    READ_SENT = auto()
    CAUGHT_UP = auto()
    READ_FAILED = auto()
    READ_REFUSED = auto()
    RETRY = auto()
    DISCONNECTED = auto()


_S, _E = ChannelState, ChannelEvent

#: Next states. None: the channel is forgotten. An event that is not listed changes nothing.
_TRANSITIONS: dict[ChannelState, dict[ChannelEvent, ChannelState | None]] = {
    _S.NEEDED: {_E.UNWANTED: None, _E.SUBSCRIBE_SENT: _S.SUBSCRIBING},
    _S.SUBSCRIBING: {
        _E.UNWANTED: _S.LEAVING_UNCONFIRMED,
        _E.CONFIRMED: _S.BEHIND,
        _E.DISCONNECTED: _S.NEEDED,
    },
    _S.BEHIND: {_E.UNWANTED: _S.LEAVING, _E.READ_SENT: _S.CATCHING_UP, _E.DISCONNECTED: _S.NEEDED},
    _S.CATCHING_UP: {
        _E.UNWANTED: _S.LEAVING,
        _E.CONFIRMED: _S.OUTDATED,
        _E.GAP: _S.OUTDATED,
        _E.CAUGHT_UP: _S.LIVE,
        _E.READ_FAILED: _S.BEHIND,
        _E.READ_REFUSED: _S.REFUSED,
        _E.DISCONNECTED: _S.NEEDED,
    },
    _S.OUTDATED: {
        _E.UNWANTED: _S.LEAVING,
        _E.CAUGHT_UP: _S.BEHIND,
        _E.READ_FAILED: _S.BEHIND,
        _E.READ_REFUSED: _S.REFUSED,
        _E.DISCONNECTED: _S.NEEDED,
    },
    _S.LIVE: {_E.UNWANTED: _S.LEAVING, _E.CONFIRMED: _S.BEHIND, _E.GAP: _S.BEHIND, _E.DISCONNECTED: _S.NEEDED},
    _S.REFUSED: {_E.UNWANTED: _S.LEAVING, _E.RETRY: _S.BEHIND, _E.DISCONNECTED: _S.NEEDED},
    _S.LEAVING: {_E.WANTED: _S.BEHIND, _E.UNSUBSCRIBE_SENT: None, _E.DISCONNECTED: None},
    _S.LEAVING_UNCONFIRMED: {
        _E.WANTED: _S.SUBSCRIBING,
        _E.CONFIRMED: _S.LEAVING,
        _E.UNSUBSCRIBE_SENT: None,
        _E.DISCONNECTED: None,
    },
}

#: Redis was asked to send what is published here.
_SUBSCRIBED = frozenset(_S) - {_S.NEEDED}

#: Whatever the connection brings is for the hub.
_CONFIRMED = _SUBSCRIBED - {_S.SUBSCRIBING, _S.LEAVING_UNCONFIRMED}

_Read = TypeVar("_Read")


class ChannelLifecycles(Generic[_Read]):
    """The states of all channels, and the reads that wait for a channel to be live.

    ===================  ========================================================  ==========================================
    state                meaning                                                   leaves it by
    ===================  ========================================================  ==========================================
    (forgotten)          nobody is subscribed                                      WANTED -> NEEDED
    NEEDED               Redis is to be asked, when there is a connection          SUBSCRIBE_SENT -> SUBSCRIBING
                                                                                   UNWANTED -> (forgotten)
    SUBSCRIBING          Redis was asked and has not confirmed                     CONFIRMED -> BEHIND
                                                                                   UNWANTED -> LEAVING_UNCONFIRMED
    BEHIND               confirmed; a snapshot is to be read                       READ_SENT -> CATCHING_UP
    CATCHING_UP          a snapshot is being read                                  CAUGHT_UP -> LIVE
                                                                                   GAP, CONFIRMED -> OUTDATED
                                                                                   READ_FAILED -> BEHIND
                                                                                   READ_REFUSED -> REFUSED
    OUTDATED             the same, but another snapshot is needed after it         CAUGHT_UP, READ_FAILED -> BEHIND
                                                                                   READ_REFUSED -> REFUSED
    LIVE                 caught up: reads go out at once                           GAP, CONFIRMED -> BEHIND
    REFUSED              Redis refuses to read it, for a wrong type perhaps        RETRY -> BEHIND
    LEAVING              nobody is subscribed; Redis is to be notified             WANTED -> BEHIND
                                                                                   UNSUBSCRIBE_SENT -> (forgotten)
    LEAVING_UNCONFIRMED  the same, before Redis has confirmed                      CONFIRMED -> LEAVING
                                                                                   WANTED -> SUBSCRIBING
                                                                                   UNSUBSCRIBE_SENT -> (forgotten)
    ===================  ========================================================  ==========================================

    All from BEHIND to REFUSED go to LEAVING when UNWANTED. DISCONNECTED takes the LEAVING ones to (forgotten) and all others to
    NEEDED. A second CONFIRMED comes where a channel was left and wanted again while Redis confirmed the first subscription.
    """

    def __init__(self) -> None:
        self._states: dict[str, ChannelState] = {}
        self._by_state: dict[ChannelState, dict[str, None]] = {state: {} for state in ChannelState}
        self._waiting: dict[str, list[_Read]] = {}

    def __len__(self) -> int:
        return len(self._states)

    def state(self, channel: str) -> ChannelState | None:
        """Return a channel's state; None if it is forgotten."""
        return self._states.get(channel)

    def is_confirmed(self, channel: str) -> bool:
        """Whether Redis has confirmed the subscription on the present connection."""
        return self._states.get(channel) in _CONFIRMED

    def in_state(self, state: ChannelState, limit: int | None = None) -> list[str]:
        """Return the channels in a state, the longest there first, `limit` at most."""
        return list(islice(self._by_state[state], limit))

    def has(self, *states: ChannelState) -> bool:
        """Whether any channel is in one of these states."""
        return any(self._by_state[state] for state in states)

    def apply(self, event: ChannelEvent, channel: str) -> ChannelState | None:
        """Apply an event; return the channel's state afterwards."""
        state = self._states.get(channel)
        if state is None:
            following = ChannelState.NEEDED if event is ChannelEvent.WANTED else None
        else:
            following = _TRANSITIONS[state].get(event, state)
        if following is state:
            return state
        if state is not None:
            del self._by_state[state][channel]
        if following is None:
            del self._states[channel]
        else:
            self._states[channel] = following
            self._by_state[following][channel] = None
        return following

    def apply_all(self, event: ChannelEvent, channels: Iterable[str]) -> None:
        """Apply an event to several channels."""
        for channel in channels:
            self.apply(event, channel)

    # Reads for subscriptions that begin: they have to see at least what was delivered before.

    def add_read(self, channel: str, read: _Read) -> bool:
        """Have a read wait until its channel is live. Returns False if the channel is live: then it must not wait."""
        if self._states.get(channel) is ChannelState.LIVE:
            return False
        self._waiting.setdefault(channel, []).append(read)
        return True

    def waiting_reads(self, channel: str) -> list[_Read]:
        """Return the reads that wait for a channel, without removing them."""
        return self._waiting.get(channel, [])

    def take_reads(self, channel: str) -> list[_Read]:
        """Remove and return the reads that wait for a channel."""
        return self._waiting.pop(channel, [])

    def channels_with_reads(self) -> list[str]:
        """Return the channels that reads wait for."""
        return list(self._waiting)
