"""What a subscriber follows, where it stands, and what it says to the relay next. Decisions only: nothing here waits.

One `Subscriptions` outlives its connections. Towards the relay it is a line of requests and their answers, which come in the
order of the requests; towards the consumer a bounded queue of updates. The way of one channel on one connection:

    queued --request--> asked --subscribed--> followed
       ^                  |                       |
       +---unavailable----+                       +--subscribed again, unasked: its line broke

With ``subscribed`` the relay tells where the channel stands, but a new follower has not got the state that belongs there. Until
it has, or until a later answer shows that there is none, the position is not ours: if the connection breaks between the two,
the next one begins anew and gets the state after all.
"""

import json
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from relay_wire.channels import GENERAL, GENERAL_UPDATE, TASK_PREFIX, TASK_UPDATE
from relay_wire.position import Position

from relay_client.subscribing.followed import (
    Followed,
    checked_name,
    checked_position,
    name_in,
    position_in,
    task_channel,
)
from relay_client.subscribing.reconnect import full_jitter
from relay_client.subscribing.updates import SubscriptionRefused, Update, UpdateType
from relay_client.subscribing.waiting import Waiting

#: Requests without an answer: one until the relay has shown that it can serve us, then so many.
WINDOW = 64

#: Seconds between two tries while Redis is away, at random between nothing and a step that doubles from the first to the
#: second of these.
UNAVAILABLE_DELAYS = (0.5, 10.0)


class Confused(Exception):
    """The relay said what does not fit: give the connection up, and resume on another."""


class _Request(NamedTuple):
    """``type`` is subscribe, unsubscribe or ping; ``since`` the position that was asked for."""

    type: str
    channel: Followed | None = None
    since: Position | None = None


class Subscriptions:
    """The state of one subscriber.

    tasks, general: what to follow at first
    positions:      by channel name, where to resume from: ``{"task:t": (epoch, offset), "general": ...}``
    states:         the folded states at these positions, by channel name
    max_waiting:    updates that may wait for the consumer, and max_waiting_size the characters of their messages: beyond
                    either `is_full` says that nothing more is to be read
    draw:           numbers from 0 to 1, at random

    Raises ValueError for names and positions that no relay knows.
    """

    def __init__(
        self,
        tasks: Iterable[str] = (),
        *,
        general: bool = True,
        positions: Mapping[str, tuple[str, int]] | None = None,
        states: Mapping[str, Mapping[str, Any]] | None = None,
        max_waiting: int = 1000,
        max_waiting_size: int = 1 << 20,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if isinstance(tasks, str):  # its letters would be followed
            raise ValueError(  # noqa: TRY004 - like all that is wrong with the arguments
                f"tasks must be a list of ids; for one task give [{tasks!r}]"
            )
        self._positions = {checked_name(name): checked_position(name, at) for name, at in (positions or {}).items()}
        self._states: dict[str, Mapping[str, Any]] = {
            checked_name(name): {**state} for name, state in (states or {}).items()
        }
        self._waiting = Waiting(max_waiting, max_waiting_size)
        self._draw = draw
        self._channels: dict[str, Followed] = {}
        self._uncertain: list[Followed] = []
        self._is_connected = False
        self._queue: deque[_Request] = deque()
        self._asked: deque[_Request] = deque()
        self._window = 1
        self._retry_at = -math.inf
        self._tries = 0
        self._ping_is_due = False
        self._unavailable = 0
        if general:
            self._add(GENERAL)
        for task_id in tasks:
            self.add(task_id)

    # What the consumer asks for.

    def add(self, task_id: str) -> None:
        """Follow a task; following it already changes nothing. Raises ValueError for what cannot be a task id."""
        self._add(task_channel(task_id))

    def _add(self, name: str) -> None:
        if name in self._channels:
            return
        position, state = self._positions.pop(name, None), self._states.pop(name, {})
        channel = self._channels[name] = Followed(name, position, state if position is not None else None)
        if self._is_connected:
            self._queue.append(_Request("subscribe", channel))

    def remove(self, task_id: str) -> None:
        """Follow a task no longer; what waits of it is forgotten. Not following it changes nothing."""
        channel = self._channels.pop(TASK_PREFIX + task_id, None)
        if channel is None or not self._is_connected:
            return
        for request in self._queue:
            if request.channel is channel and request.type == "subscribe":  # not even asked for yet
                self._queue.remove(request)
                if not self._queue and self._has_uncertain:
                    # Behind this one a ping would have gone, by which those before it are certain.
                    self._ping_is_due = True
                return
        self._queue.append(_Request("unsubscribe", channel))

    @property
    def tasks(self) -> list[str]:
        """The tasks that are followed."""
        return [name[len(TASK_PREFIX) :] for name in self._channels if name.startswith(TASK_PREFIX)]

    @property
    def positions(self) -> dict[str, Position]:
        """By channel name, where the consumer stands."""
        passed_on = {name: channel.passed_on[0] for name, channel in self._channels.items()}
        return {name: position for name, position in passed_on.items() if position is not None}

    @property
    def states(self) -> dict[str, Mapping[str, Any]]:
        """The states of tasks at these positions."""
        return {
            name: channel.passed_on[1]
            for name, channel in self._channels.items()
            if name != GENERAL and channel.passed_on[0] is not None
        }

    @property
    def waiting(self) -> int:
        """Updates that wait for the consumer."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Nothing more is to be read before the consumer has taken some."""
        return self._waiting.is_full

    def pop(self) -> Update | None:
        """The next update for the consumer, None when there is none."""
        return self._waiting.pop(lambda channel: self._channels.get(channel.name) is channel)

    # What the connection asks for.

    def connected(self) -> None:
        """There is a new connection: everything is to be asked for again."""
        self._is_connected = True
        self._window = 1
        self._retry_at = -math.inf
        self._tries = self._unavailable = 0
        if GENERAL not in self._channels:
            # Whoever connects gets general updates unasked.
            self._queue.append(_Request("unsubscribe", Followed(GENERAL)))
        self._queue.extend(_Request("subscribe", channel) for channel in self._channels.values())

    def disconnected(self) -> None:
        """It has ended."""
        self._is_connected = self._ping_is_due = False
        self._queue.clear()
        self._asked.clear()
        self._uncertain.clear()
        for channel in self._channels.values():
            channel.is_followed = False
            if channel.top is not None:  # its state is still to come, and the consumer knows that something is missing
                channel.position = channel.top = None

    @property
    def is_settled(self) -> bool:
        """The relay has confirmed everything that is followed, and has told the states that there are."""
        return self._is_connected and all(
            channel.is_followed and channel.top is None for channel in self._channels.values()
        )

    @property
    def was_only_unavailable(self) -> bool:
        """All errors of this connection were that Redis was away. The relay counts them like malformed messages."""
        return self._unavailable > 0

    def beat(self) -> None:
        """Nothing was heard for long: ask whether the relay is there."""
        self._ping_is_due = True

    def next_request(self, now: float) -> str | None:
        """What to send now, None for nothing. It counts as sent."""
        if self._ping_is_due:
            self._ping_is_due = False
            return self._ask(_Request("ping"))
        if self._queue and len(self._asked) < self._window and now >= self._retry_at:
            request = self._queue.popleft()
            if request.type == "subscribe" and not self._queue:
                # Its answer shows, where a channel has no state, that none will come.
                self._ping_is_due = True
            return self._ask(request)
        return None

    def wake_at(self, now: float) -> float:
        """When to ask for the next request again, if nothing comes before."""
        return self._retry_at if self._queue and self._retry_at > now else math.inf

    def _ask(self, request: _Request) -> str:
        words: dict[str, Any] = {"type": request.type}
        channel = request.channel
        if channel is not None:
            words |= channel.words
            if request.type == "subscribe":
                request = request._replace(since=channel.position)
                since = channel.position
                words["position"] = None if since is None else {"epoch": since.epoch, "offset": since.offset}
        self._asked.append(request)
        return json.dumps(words)

    # What the relay says.

    def receive(self, text: str | bytes, now: float) -> None:
        """A message of the relay.

        Raises Confused when it does not fit, and SubscriptionRefused when the relay will never serve what was asked for.
        """
        try:
            message = json.loads(text) if isinstance(text, str) else None
            if not isinstance(message, dict):
                raise TypeError
            kind = message["type"]
            if kind in (TASK_UPDATE, GENERAL_UPDATE):
                self._update(kind, message, str(text))
            elif kind == "subscribed":
                self._subscribed(message, str(text))
            elif kind in ("unsubscribed", "pong"):
                self._answer({"unsubscribed": "unsubscribe", "pong": "ping"}[kind])
            elif kind == "error":
                self._error(str(message["code"]), str(message.get("message", "")), now)
            # Types that we do not know are of a newer relay.
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Confused(f"not a relay's message: {text[:200]!r}") from None

    def _answer(self, kind: str) -> _Request:
        """The request that was answered: always the oldest."""
        if not self._asked or self._asked[0].type != kind:
            raise Confused(f"an answer to a {kind!r} that is not the oldest request")
        self._certain()
        return self._asked.popleft()

    @property
    def _has_uncertain(self) -> bool:
        """There are channels, or will be, of which only the next answer shows whether they have a state."""
        return any(channel.top is not None for channel in self._uncertain) or any(
            request.type == "subscribe" for request in self._asked
        )

    def _certain(self) -> None:
        """An answer came: a state that belonged to an earlier one would have come before it."""
        for channel in self._uncertain:
            if channel.top is not None:
                channel.position, channel.top = channel.top, None
                self._waiting.put_certain(channel)
        self._uncertain.clear()

    def _subscribed(self, message: dict[str, Any], text: str) -> None:
        name = name_in(message)
        position = position_in(message)
        if position is None:
            raise Confused("a subscription without a position")
        head = self._asked[0] if self._asked else None
        is_answer = head is not None and head.type == "subscribe" and head.channel and head.channel.name == name
        channel = self._channels.get(name)
        if is_answer:
            request = self._answer("subscribe")
            self._window = WINDOW
            self._tries = 0
            channel = request.channel
            assert channel is not None
            channel.is_followed = True
            if message.get("recovered") is True:
                return
            had_position = request.since is not None
        else:  # the channel's line broke
            self._certain()
            if channel is None or not channel.is_followed:
                return
            had_position = True
        channel.fields = {}
        channel.top = position
        self._uncertain.append(channel)
        if had_position:
            self._waiting.put(channel, Update(name, "reset", {}, {}, position, text))
        if name == GENERAL:  # it has no state
            self._certain()

    def _error(self, code: str, explanation: str, now: float) -> None:
        self._certain()
        request = self._asked.popleft() if self._asked else _Request("")
        channel = request.channel
        if code != "unavailable" or channel is None:
            raise SubscriptionRefused(code, explanation, channel.name if channel is not None else None)
        self._unavailable += 1
        self._window = 1
        if self._channels.get(channel.name) is channel:
            self._queue.append(_Request("subscribe", channel))
        if now >= self._retry_at:
            first, cap = UNAVAILABLE_DELAYS
            self._retry_at = now + full_jitter(self._tries, first, cap, self._draw)
            self._tries += 1

    def _update(self, kind: UpdateType, message: dict[str, Any], text: str) -> None:
        name = GENERAL if kind == GENERAL_UPDATE else name_in(message)
        data = message["data"]
        position = position_in(message)
        if not isinstance(data, dict):
            raise TypeError
        channel = self._channels.get(name)
        if channel is None or not channel.is_followed:
            return  # not wanted any more; or a general update that came before we asked for positions
        is_state = False
        if position is not None:
            stands = channel.top or channel.position
            if stands is not None:
                if position.epoch != stands.epoch:
                    raise Confused(f"{name} has another epoch, and nobody told")
                is_state = channel.top is not None and position == channel.top
                if position.offset <= stands.offset and not is_state:
                    return  # we have it
            channel.position, channel.top = position, None
        state: Mapping[str, Any] = {} if name == GENERAL else {**channel.fields, **data}
        channel.fields = state
        self._waiting.put(channel, Update(name, kind, data, state, position, text, is_state))
