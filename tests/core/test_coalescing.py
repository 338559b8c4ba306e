"""Coalescing keeps states, positions and ends, whatever is merged."""

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core import task_state
from relay.core.batches import Message
from relay.core.coalescing import coalesce
from relay.core.updates import Position, Update
from tests.core.world import NUMBERED, JsonObject, update_of

TASKS = ("task:a", "task:b")
partial = st.dictionaries(st.sampled_from("xyz"), st.integers(0, 99), max_size=3)
statuses = st.sampled_from([None, None, None, "in_progress", "completed", "failed", "stalled"])


class Published(NamedTuple):
    channel: str
    kind: str
    data: JsonObject


@st.composite
def published(draw: Callable[..., Any]) -> Published:
    channel = draw(st.sampled_from((*TASKS, "general")))
    data = draw(partial)
    status = draw(statuses)
    if status is not None:
        data["status"] = status
    kind = "general_update" if channel == "general" else "task_update"
    return Published(channel, kind, data)


def final_states(messages: Iterable[Message]) -> dict[str, JsonObject]:
    states: dict[str, JsonObject] = {}
    for message in messages:
        update = message.update
        if update is not None and update.type == "task_update":
            states.setdefault(update.channel, {}).update(json.loads(update.data))
    return states


@settings(max_examples=300)
@given(st.lists(published(), max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_coalescing_keeps_states_positions_and_ends(script: list[Published], answers_at: list[int]) -> None:
    offsets = dict.fromkeys((*TASKS, "general"), 0)
    messages: list[Message] = []
    for place, (channel, kind, data) in enumerate(script):
        offsets[channel] += 1
        position = Position("e", offsets[channel])
        messages.append(NUMBERED.message(Update(channel, kind, json.dumps(data).encode(), float(place), position)))
        if place in answers_at:
            messages.append(NUMBERED.payload(b'["answer", %d]' % place))
    result = coalesce(messages)

    assert final_states(result) == final_states(messages)
    for message in result:
        if message.update is not None:  # the frame says what the update is
            frame_position, frame_data = json.loads(message.frame)[2:]
            assert frame_data == json.loads(message.update.data)
            assert (frame_position and Position(*frame_position)) == message.update.position
    for channel in offsets:
        before = [message.update for message in messages if message.update and message.update.channel == channel]
        after = [message.update for message in result if message.update and message.update.channel == channel]
        positions = [update.position for update in after if update.position is not None]
        assert positions == sorted(set(positions))
        if channel == "general":  # no task: nothing is merged
            assert after == before
            continue
        if before:
            assert after[-1].position == before[-1].position
        ends = [update for update in before if task_state.is_terminal(update.data)]
        assert [update for update in after if task_state.is_terminal(update.data)] == ends
        assert len(after) <= 2 * len(ends) + 1 + len([message for message in messages if message.update is None])
    # Answers stay, in their order.
    answers = [message.frame for message in messages if message.update is None]
    assert [message.frame for message in result if message.update is None] == answers


@given(st.lists(published(), min_size=1, max_size=20), st.integers(0, 20))
def test_a_position_covers_all_that_was_merged_into_it(script: list[Published], stop: int) -> None:
    """A client that goes away in the middle of what was merged, and resumes from what it has seen, misses nothing."""
    messages: list[Message] = []
    for offset, (_, _, data) in enumerate(script, 1):
        update = Update("task:a", "task_update", json.dumps(data).encode(), 0.0, Position("e", offset))
        messages.append(NUMBERED.message(update))
    seen = coalesce(messages)[:stop]
    last = next(
        (message.update.position.offset for message in reversed(seen) if message.update and message.update.position), 0
    )
    resumed = [*seen, *messages[last:]]
    assert final_states(resumed) == final_states(messages)


def test_an_unpersisted_update_does_not_take_the_position_of_what_it_is_merged_with() -> None:
    persisted = NUMBERED.message(update_of("task:a", Position("e", 7), {"x": 1}))
    unpersisted = NUMBERED.message(update_of("task:a", None, {"y": 1}))
    positions = [message.update.position for message in coalesce([persisted, unpersisted]) if message.update]
    assert Position("e", 7) in positions


@given(
    st.lists(
        st.one_of(
            st.text("xyz", max_size=3).map(lambda text: {"text": {"$append": text}}),
            st.text("xyz", max_size=3).map(lambda text: {"text": text}),
            st.just({"n": 1}),
            st.just({"status": "completed"}),
        ),
        min_size=1,
        max_size=20,
    ),
    st.text("ab", max_size=3),
)
def test_what_is_appended_is_appended_once(script: list[JsonObject], before: str) -> None:
    messages = [
        NUMBERED.message(update_of("task:a", Position("e", offset), data)) for offset, data in enumerate(script, 1)
    ]

    def text_after(some: Iterable[Message]) -> str:
        text = before
        for message in some:
            assert message.update is not None
            value = json.loads(message.update.data).get("text", {"$append": ""})
            assert (
                message.update.has_operations
                or not isinstance(value, dict)
                or "text" not in json.loads(message.frame)[3]
            )
            text = text + value["$append"] if isinstance(value, dict) else value
        return text

    assert text_after(coalesce(messages)) == text_after(messages)
