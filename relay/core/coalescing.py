"""Coalescing: several waiting updates of one task become one, so that a slow client gets the latest state sooner."""

from collections.abc import Sequence

from relay.core import task_state
from relay.core.batches import Format, Message
from relay.core.errors import BadMessage
from relay.core.updates import Update


def coalesce(messages: Sequence[Message]) -> list[Message]:
    """Merge the updates of each task into one, at the place and the position of the last.

    A terminal update stays a message of its own, and nothing is merged across it or across an answer. Messages that carry no
    task update stay as they are.

    Args:
        messages: Messages in the order in which they wait; several formats may be mixed.

    Returns:
        The remaining messages, in order.
    """
    runs: list[list[Message]] = []  # each becomes one message
    open_runs: dict[tuple[str, Format], list[Message]] = {}
    last_index: dict[int, int] = {}
    for index, message in enumerate(messages):
        update = message.update
        if update is None or update.type != "task_update":
            if update is None:  # an answer may announce a new state, over which older fields must not be laid
                open_runs.clear()
            run = [message]
            runs.append(run)
        elif task_state.is_terminal(update.data):
            open_runs.pop((update.channel, message.format), None)
            run = [message]
            runs.append(run)
        else:
            key = (update.channel, message.format)
            existing = open_runs.get(key)
            if existing is None:
                run = open_runs[key] = []
                runs.append(run)
            else:
                run = existing
            run.append(message)
        last_index[id(run)] = index
    runs.sort(key=lambda run: last_index[id(run)])
    return [message for run in runs for message in _merged(run)]


def _merged(run: list[Message]) -> list[Message]:
    last = run[-1]
    if len(run) == 1 or last.update is None:
        return run
    try:
        updates = [message.update for message in run if message.update is not None]
        has_operations = any(update.has_operations for update in updates)
        fold = task_state.fold_operations if has_operations else task_state.fold
        data = fold(update.data for update in updates)
    except BadMessage:  # too many fields or levels to be merged: the limits of the queue decide
        return run
    update = last.update
    # An unpersisted update has no position; the client then stands at the last persisted one.
    known = [message.update.position for message in run if message.update is not None and message.update.position]
    position = known[-1] if known else None
    return [
        last.format.message(Update(update.channel, update.type, data, update.received_at, position, has_operations))
    ]
