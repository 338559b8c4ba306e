"""The channels that a subscriber follows, their positions, and what to send to the relay next. Decisions only: nothing waits.

One `Subscriptions` outlives its connections. Towards the relay it is a queue of requests, answered in the order in which they
were sent; towards the consumer it is a bounded queue of updates. `channel_state.ChannelState` has the states of one channel.
"""

import json
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from relay_wire.channels import FAMILY_PREFIX, GENERAL, GENERAL_UPDATE, TASK_PREFIX, TASK_UPDATE
from relay_wire.position import Position
from relay_wire.trace_context import TRACE, TRACEPARENT

from relay_client import tracing
from relay_client.backoff import full_jitter
from relay_client.field_operations import apply_update
from relay_client.subscriber.channel_state import (
    ChannelState,
    Phase,
    checked_name,
    checked_position,
    read_name,
    read_position,
    task_channel,
)
from relay_client.subscriber.errors import SubscriptionRefused
from relay_client.subscriber.update import Update, UpdateType
from relay_client.subscriber.update_queue import UpdateQueue

#: Requests that may be unanswered at a time, once the relay has served one. Before that it is one.
WINDOW = 64

#: Bounds in seconds of the first and of the longest delay between two attempts while Redis is unavailable.
UNAVAILABLE_DELAYS = (0.5, 10.0)


#: The type of the message with the states of a task and its children.
TASK_STATES = "task_states"

#: By the type of an answer, that of its request.
_ANSWERS = {"unsubscribed": "unsubscribe", "pong": "ping", "authenticated": "authenticate"}


class ProtocolError(Exception):
    """The relay sent what does not fit. The connection must be closed; the next one resumes."""


class _Request(NamedTuple):
    """A request.

    Attributes:
        type: ``subscribe``, ``unsubscribe``, ``authenticate`` or ``ping``.
        channel: What it is about; None for a ping.
        since: The position that was sent with it.
        token: The token of ``authenticate``.
    """

    type: str
    channel: ChannelState | None = None
    since: Position | None = None
    token: str | None = None


class Subscriptions:
    """The state of one subscriber.

    Args:
        tasks: Ids of the tasks to follow from the start.
        families: Ids of the tasks to follow together with their children.
        general: Follow the general updates too.
        positions: By channel, where to resume: ``{"task:t": (epoch, offset), "general": ...}``.
        states: By channel, the folded states at these positions.
        max_waiting: Updates that may wait for the consumer.
        max_waiting_size: Characters of their messages. Beyond either limit `is_full` is true.
        draw: Random numbers from 0 to 1.

    Raises:
        ValueError: A name or a position is not one that a relay accepts.
    """

    def __init__(
        self,
        tasks: Iterable[str] = (),
        *,
        families: Iterable[str] = (),
        general: bool = False,
        positions: Mapping[str, tuple[str, int]] | None = None,
        states: Mapping[str, Mapping[str, Any]] | None = None,
        max_waiting: int = 1000,
        max_waiting_size: int = 1 << 20,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if isinstance(tasks, str):  # its letters would be followed
            raise ValueError(  # noqa: TRY004 - the same error as for everything that is wrong with the arguments
                f"tasks must be a list of ids; for one task give [{tasks!r}]"
            )
        self._positions = {checked_name(name): checked_position(name, at) for name, at in (positions or {}).items()}
        self._states: dict[str, Mapping[str, Any]] = {
            checked_name(name): {**state} for name, state in (states or {}).items()
        }
        self._updates = UpdateQueue(max_waiting, max_waiting_size)
        self._draw = draw
        self._channels: dict[str, ChannelState] = {}
        self._is_connected = False
        self._pending: deque[_Request] = deque()
        self._unanswered: deque[_Request] = deque()
        self._window = 1
        self._retry_at = -math.inf
        self._attempts = 0
        self._is_ping_due = False
        self._renewal: str | None = None
        #: The token ends soon: call `renew`.
        self.is_token_due = False
        #: The relay has answered that it cannot reach Redis, and has not served a subscription since.
        self.is_unavailable = False
        if general:
            self._add(GENERAL)
        for task_id in tasks:
            self.add(task_id)
        for task_id in families:
            self._add(FAMILY_PREFIX + task_channel(task_id)[len(TASK_PREFIX) :])

    # The consumer's side.

    def add(self, task_id: str) -> None:
        """Follow a task. No effect if it is followed already. Raises ValueError if it cannot be a task id."""
        self._add(task_channel(task_id))

    def _add(self, name: str) -> None:
        if name in self._channels:
            return
        position, state = self._positions.pop(name, None), self._states.pop(name, {})
        channel = self._channels[name] = ChannelState(name, position, state if position is not None else None)
        if self._is_connected:
            self._pending.append(_Request("subscribe", channel))

    def remove(self, task_id: str) -> None:
        """Stop following a task, and drop its waiting updates. No effect if it is not followed."""
        channel = self._channels.pop(TASK_PREFIX + task_id, None)
        if channel is None or not self._is_connected:
            return
        for request in self._pending:
            if request.channel is channel and request.type == "subscribe":
                self._pending.remove(request)
                return
        self._pending.append(_Request("unsubscribe", channel))

    @property
    def tasks(self) -> list[str]:
        """The ids of the tasks that are followed."""
        return [name[len(TASK_PREFIX) :] for name in self._channels if name.startswith(TASK_PREFIX)]

    @property
    def positions(self) -> dict[str, Position]:
        """By channel, the position of the last update that the consumer has taken."""
        consumed = {name: channel.consumed[0] for name, channel in self._channels.items()}
        return {name: position for name, position in consumed.items() if position is not None}

    @property
    def states(self) -> dict[str, Mapping[str, Any]]:
        """By channel, the states of tasks at these positions."""
        consumed = {name: channel.consumed for name, channel in self._channels.items() if name != GENERAL}
        return {name: state for name, (position, state) in consumed.items() if position is not None}

    @property
    def waiting(self) -> int:
        """Entries that wait for the consumer."""
        return len(self._updates)

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read until the consumer has taken some."""
        return self._updates.is_full

    def pop(self) -> Update | None:
        """Return the next update for the consumer, None if there is none."""
        return self._updates.pop(lambda channel: self._channels.get(channel.name) is channel)

    # Requests to the relay.

    def on_connected(self, token: str | None = None) -> None:
        """Start on a new connection: everything has to be requested again, with a token first if there is one."""
        self._is_connected = True
        if token is not None:
            self._pending.append(_Request("authenticate", token=token))
        self._window = 1
        self._retry_at = -math.inf
        self._attempts = 0
        if GENERAL not in self._channels:
            # A relay sends general updates to every client that does not decline them.
            self._pending.append(_Request("unsubscribe", ChannelState(GENERAL)))
        self._pending.extend(_Request("subscribe", channel) for channel in self._channels.values())

    def on_disconnected(self) -> None:
        """Take note that the connection is lost."""
        self._is_connected = self._is_ping_due = self.is_unavailable = self.is_token_due = False
        self._renewal = None
        self._pending.clear()
        self._unanswered.clear()
        for channel in self._channels.values():
            channel.disconnect()

    @property
    def is_established(self) -> bool:
        """Whether every channel is followed and has its state."""
        return self._is_connected and all(channel.phase is Phase.LIVE for channel in self._channels.values())

    def request_ping(self) -> None:
        """Ask the relay whether it is still there."""
        self._is_ping_due = True

    def renew(self, token: str) -> None:
        """Send another token on the present connection, without losing a position."""
        self.is_token_due = False
        self._renewal = token

    def next_request(self, now: float) -> str | None:
        """Return the next message to send, None if there is none now. It counts as sent."""
        if self._is_ping_due:
            self._is_ping_due = False
            return self._send(_Request("ping"))
        if self._renewal is not None:
            token, self._renewal = self._renewal, None
            return self._send(_Request("authenticate", token=token))
        if self._pending and len(self._unanswered) < self._window and now >= self._retry_at:
            return self._send(self._pending.popleft())
        return None

    def wake_at(self, now: float) -> float:
        """Return when to call `next_request` again at the latest."""
        return self._retry_at if self._pending and self._retry_at > now else math.inf

    def _send(self, request: _Request) -> str:
        fields: dict[str, Any] = {"type": request.type}
        channel = request.channel
        if request.token is not None:
            fields["token"] = request.token
            request = request._replace(token="")
        if channel is not None:
            fields |= channel.request_fields()
            if request.type == "subscribe":
                since = channel.position
                request = request._replace(since=since)
                fields["position"] = None if since is None else {"epoch": since.epoch, "offset": since.offset}
                fields["deltas"] = True
                if tracing.is_configured() and not channel.is_family:
                    fields["traces"] = True
                channel.phase = Phase.REQUESTED
        self._unanswered.append(request)
        return json.dumps(fields)

    # Messages of the relay.

    def receive(self, text: str | bytes, now: float) -> None:
        """Take a message of the relay.

        Raises:
            ProtocolError: It does not fit.
            SubscriptionRefused: The relay will never serve what was requested.
        """
        try:
            message = json.loads(text) if isinstance(text, str) else None
            if not isinstance(message, dict):
                raise TypeError
            kind = message["type"]
            if kind in (TASK_UPDATE, GENERAL_UPDATE, TASK_STATES):
                self._on_update(kind, message, str(text))
            elif kind == "subscribed":
                self._on_subscribed(message, str(text))
            elif kind in _ANSWERS:
                self._answered(_ANSWERS[kind])
            elif kind == TRACE:
                self._on_trace(message)
            elif kind == "token_expires":
                self.is_token_due = True
            elif kind == "error":
                self._on_error(message, now)
            # Other types belong to a newer relay.
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise ProtocolError(f"this is no message of a relay: {text[:200]!r}") from None

    def _answered(self, kind: str) -> _Request:
        """Return the request that an answer belongs to, which is always the oldest."""
        if not self._unanswered or self._unanswered[0].type != kind:
            raise ProtocolError(f"an answer to {kind!r}, which is not the oldest request")
        return self._unanswered.popleft()

    def _on_subscribed(self, message: dict[str, Any], text: str) -> None:
        name = read_name(message)
        position, state_follows = read_position(message), message.get("state")
        if position is None or not isinstance(state_follows, bool):
            raise ProtocolError("a subscription without its position, or without saying whether a state follows")
        oldest = self._unanswered[0].channel if self._unanswered else None
        if oldest is not None and oldest.name == name and self._unanswered[0].type == "subscribe":
            request = self._unanswered.popleft()
            self._window = WINDOW
            self._attempts = 0
            self.is_unavailable = False
            channel, had_position = oldest, request.since is not None
        else:  # unrequested: the relay could not keep the sequence of updates unbroken
            known = self._channels.get(name)
            if known is None or not known.is_confirmed:
                return
            channel, had_position = known, True
        is_recovered = message.get("recovered") is True
        channel.confirm(position, state_follows=state_follows, is_recovered=is_recovered)
        if is_recovered:
            return
        if had_position:
            self._updates.put(channel, Update(name, "reset", {}, {}, position, text))
        if not state_follows:
            self._updates.put_position(channel)

    def _on_error(self, message: dict[str, Any], now: float) -> None:
        code, explanation = str(message["code"]), str(message.get("message", ""))
        oldest = self._unanswered[0] if self._unanswered else _Request("")
        named = read_name(message) if "task_id" in message or "channel" in message else None
        if oldest.type == "authenticate" and named is None:
            self._unanswered.popleft()
            return  # the relay closes the connection, or the former token lasts a little longer
        if named is not None and (oldest.channel is None or oldest.channel.name != named):
            self._on_ended(named, code, explanation)
            return
        request = self._unanswered.popleft() if self._unanswered else oldest
        channel = request.channel
        if code != "unavailable" or channel is None:
            raise SubscriptionRefused(code, explanation, channel.name if channel is not None else None)
        self._window = 1
        self.is_unavailable = True
        channel.phase = Phase.UNSUBSCRIBED
        if self._channels.get(channel.name) is channel:
            self._pending.append(_Request("subscribe", channel))
        if now >= self._retry_at:
            self._retry_at = now + full_jitter(self._attempts, *UNAVAILABLE_DELAYS, self._draw)
            self._attempts += 1

    def _on_ended(self, name: str, code: str, explanation: str) -> None:
        """Take note that the relay has ended a subscription, since another token or owner does not allow it."""
        channel = self._channels.get(name)
        if channel is None:
            return
        if code != "unavailable":
            raise SubscriptionRefused(code, explanation, name)
        channel.phase = Phase.UNSUBSCRIBED
        self._pending.append(_Request("subscribe", channel))

    def _on_update(self, kind: UpdateType, message: dict[str, Any], text: str) -> None:
        name = GENERAL if kind == GENERAL_UPDATE else read_name(message)
        data = message["tasks"] if kind == TASK_STATES else message["data"]
        position = read_position(message)
        if name != GENERAL and not isinstance(data, list if kind == TASK_STATES else dict):
            raise TypeError
        channel = self._channels.get(name)
        if channel is None or not channel.is_confirmed:
            return  # no longer wanted; or a general update from before the answer to our request
        is_state = False
        if position is not None:
            is_state = channel.phase is Phase.AWAITING_STATE
            reached = channel.awaited if is_state else channel.position
            if reached is not None:
                if position.epoch != reached.epoch:
                    raise ProtocolError(f"{name} has another epoch without a reset")
                if position.offset < reached.offset or (position.offset == reached.offset and not is_state):
                    return  # received before
            channel.position, channel.awaited, channel.phase = position, None, Phase.LIVE
        if channel.is_family:
            self._on_family(channel, kind, message, data, text, is_state=is_state)
            return
        state: Mapping[str, Any] = {} if name == GENERAL else apply_update({} if is_state else channel.fields, data)
        channel.fields = state
        update = Update(name, kind, data, state, position, text, is_state)
        span = None if channel.trace is None else channel.begin_receive()
        self._updates.put(channel, update if span is None else replace(update, traceparent=span.traceparent), span)

    def _on_trace(self, message: dict[str, Any]) -> None:
        channel, position = self._channels.get(read_name(message)), read_position(message)
        if channel is not None and position is not None:
            channel.trace = position, str(message[TRACEPARENT])

    def _on_family(
        self, channel: ChannelState, kind: UpdateType, message: dict[str, Any], data: Any, text: str, *, is_state: bool
    ) -> None:
        """Take an update of a task or of one of its children, or the states of all of them."""
        if kind == TASK_STATES:
            member, state = None, {str(task["task_id"]): apply_update({}, task["data"]) for task in data}
            channel.fields = state
        else:
            member = str(message["task_id"])
            state = apply_update(channel.fields.get(member, {}), data)
            channel.fields = {**channel.fields, member: state}
        self._updates.put(channel, Update(channel.name, kind, data, state, channel.position, text, is_state, member))
