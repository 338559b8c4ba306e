"""The script calls that record a batch of plain updates, and what became of each of them.

On a single server one call records many updates: calls of their own cost the relay twice as much, and Redis more. On a cluster,
where their keys lie on several nodes, each has its own.
"""

from collections.abc import Sequence
from typing import Any

from relay_wire.channels import TASK_PREFIX
from relay_wire.publications import Occurrence, PublishResult, Retention, ScriptCall

from relay.broker import script_calls
from relay.broker.ingest_block import IngestBlock
from relay.core.errors import BadMessage, BrokerError
from relay.core.field_operations import may_have_operations
from relay.core.task_state import raw_fields_of, status_of
from relay.core.updates import Update


class IngestCalls:
    """Collects the calls that record updates, in order.

    Args:
        retention: How much is kept, and for how long.
        remember_ms: How long Redis remembers the updates' digests, in milliseconds.
        sharded: Whether the server is a cluster.
    """

    def __init__(self, retention: Retention, remember_ms: int, *, sharded: bool) -> None:
        self._retention = retention
        self._remember_ms = remember_ms
        self._sharded = sharded
        self._calls: list[ScriptCall] = []
        self._counts: list[int] = []  # how many updates each call records; 0 for one that creates a task
        self._singles: set[int] = set()  # the places of calls that record one update by itself
        self._open: IngestBlock | None = None
        self._errors: dict[int, BadMessage] = {}
        self._count = 0

    def add(self, update: Update, occurrence: Occurrence, *, is_single: bool = False) -> None:
        """Add an update. One that cannot be recorded at all has the reason as its result.

        Args:
            update: The update.
            occurrence: Which one of several equal messages it is.
            is_single: Record it by a call of its own, as one with a trace context needs it.
        """
        place = self._count
        self._count += 1
        try:
            created: ScriptCall | None = None
            if script_calls.CREATED_MARK in update.data:
                created = script_calls.ingest_created_call(update, occurrence, self._retention, sharded=self._sharded)
            if is_single or self._sharded:
                self._append_single(update, occurrence)
            else:
                call = self._open
                if call is None or call.is_full:
                    self._close()
                    call = self._open = IngestBlock(self._retention, self._remember_ms)
                _add(call, update, occurrence)
        except BadMessage as error:
            self._errors[place] = error
            return
        if created is not None:
            self._close()
            self._append(created, 0)

    def _append_single(self, update: Update, occurrence: Occurrence) -> None:
        call = script_calls.ingest_call(update, occurrence, self._retention, sharded=self._sharded)
        self._close()
        self._singles.add(len(self._calls))
        self._append(call, 1)

    def _append(self, call: ScriptCall, count: int) -> None:
        self._calls.append(call)
        self._counts.append(count)

    def _close(self) -> None:
        call, self._open = self._open, None
        if call is not None and call.count:
            self._append(call.script_call(), call.count)

    def calls(self) -> Sequence[ScriptCall]:
        """Return the calls. Nothing may be added afterwards."""
        self._close()
        return self._calls

    def results(self, answers: Sequence[Any]) -> list[int | BrokerError | BadMessage]:
        """Return what became of each update.

        A number is how often it had been recorded before this relay began to count, or -1 less that number if this occurrence
        of it had been recorded, by this relay or another. An error is the reason for which it was not recorded.

        Args:
            answers: What the calls returned, with a BrokerError in place of a failed call's.
        """
        results: list[int | BrokerError | BadMessage] = []
        for place, (answer, count) in enumerate(zip(answers, self._counts, strict=True)):
            if isinstance(answer, BrokerError):
                results += [answer] * count
            elif place in self._singles:
                result = script_calls.read_result(answer)
                if isinstance(result, PublishResult):
                    results.append(-1 - result.previous if result.is_duplicate else result.previous)
                else:
                    results.append(result)
            elif count:
                results += self._read_many(answer, count)
        for place in sorted(self._errors):
            results.insert(place, self._errors[place])
        return results

    @staticmethod
    def _read_many(answer: Any, count: int) -> list[int | BrokerError]:
        if type(answer) is not list or len(answer) != count:
            return [_unreadable(answer)] * count
        return [each if type(each) is int or isinstance(each, BrokerError) else _unreadable(each) for each in answer]


def _add(call: IngestBlock, update: Update, occurrence: Occurrence) -> None:
    channel, data = update.channel, update.data
    if not channel.startswith(TASK_PREFIX):
        call.add(channel, update.type, data, occurrence, None, None, update.options)
    elif may_have_operations(data):
        kind, fields, status = script_calls.typed_fields(channel, update.type, data)
        call.add(channel, kind, data, occurrence, fields, status, update.options)
    else:  # nearly all of them
        raw = raw_fields_of(data)
        value = raw.get("status")
        state = None if value is None else status_of({"status": bytes(value)})
        call.add(channel, update.type, data, occurrence, raw, state, update.options)


def _unreadable(answer: Any) -> BrokerError:
    return script_calls.unreadable("a script", TypeError(f"{answer!r:.200}"))
