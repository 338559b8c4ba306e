"""One call of Redis on its way, and its outcome."""

from collections.abc import Callable, Sequence
from typing import Any

from relay_wire.scripts import Script

from relay_client.errors import NotDelivered
from relay_client.tracing import UpdateSpan

Command = tuple[Any, ...]


def _nobody() -> None:
    """Nobody waits for a call that is settled."""


class Call:
    """A script or a plain command that is to be executed once.

    Attributes:
        is_settled: It has an outcome: a result or an error.
        is_abandoned: Its caller waits no longer; it is not sent, unless it is being sent just now.
        is_in_flight: It is part of the exchange with Redis that goes on now.
        may_have_arrived: It was sent before, and may have been executed.
        fallback_if_overtaken: It must not be executed after a call that came behind it; its fallback is sent instead.
        is_posted: Nobody waits for it; a loss is logged, and raised by the next flush.
        span: Its span, if it is a part of a trace; it ends when the call is settled.
        on_settled: Called once it is settled, in the thread of the sender. It must neither block nor raise.
    """

    __slots__ = (
        "channel",
        "command",
        "deadline",
        "error",
        "fallback",
        "fallback_if_overtaken",
        "is_abandoned",
        "is_in_flight",
        "is_posted",
        "is_settled",
        "keys",
        "may_have_arrived",
        "needs_replicas",
        "on_settled",
        "read",
        "repeatable",
        "result",
        "script",
        "size",
        "span",
        "timeout",
        "values",
    )

    def __init__(
        self,
        channel: str,
        keys: Sequence[str],
        script: Script | None = None,
        values: Sequence[Any] = (),
        *,
        command: Command = (),
        repeatable: bool = True,
        fallback: Command | None = None,
        needs_replicas: bool = False,
        fallback_if_overtaken: bool = False,
        read: Callable[[Any], Any] = lambda answer: answer,
        span: UpdateSpan | None = None,
    ) -> None:
        """Make a call.

        Args:
            channel: What it is for, as errors name it.
            keys: Its Redis keys; the first decides the node of a cluster.
            script: The script to run.
            values: Further arguments of the script.
            command: A plain command, instead of a script.
            repeatable: It may be sent again after a lost answer: the script recognises it, or it has no further effect.
            fallback: The plain command to send instead when Redis has no memory for it.
            needs_replicas: Where replicas are waited for, they must have it too.
            fallback_if_overtaken: It has a fallback, which is sent instead when a call that came behind it was executed before.
            read: Makes the outcome of Redis' answer.
            span: Its span, if it is a part of a trace.
        """
        self.channel = channel
        self.keys = keys
        self.script = script
        self.values = values
        self.command = command
        self.repeatable = repeatable
        self.fallback = fallback
        self.needs_replicas = needs_replicas
        self.fallback_if_overtaken = fallback_if_overtaken
        self.read = read
        self.span = span
        self.size = 256 + sum(len(value) for value in (*values, *command) if isinstance(value, bytes | str))
        self.timeout = self.deadline = 0.0
        self.is_posted = self.is_settled = self.is_abandoned = self.is_in_flight = self.may_have_arrived = False
        self.on_settled: Callable[[], None] = _nobody
        self.result: Any = None
        self.error: NotDelivered | None = None

    def wire_args(self, *, with_source: bool) -> Command:
        """Return the command to send; with_source: with the script's source, for a server that does not know it."""
        if self.script is None:
            return self.command
        name, body = ("EVAL", self.script.source) if with_source else ("EVALSHA", self.script.sha)
        return (name, body, len(self.keys), *self.keys, *self.values)

    def use_fallback(self) -> None:
        """Become the plain command, whose outcome is None: Redis has no memory for the script, or it comes too late."""
        assert self.fallback is not None
        self.script, self.command, self.fallback = None, self.fallback, None
        self.needs_replicas = False
        self.read = lambda _answer: None

    def settle(self, result: Any, error: NotDelivered | None) -> None:
        """Give it its outcome."""
        self.result, self.error = result, error
        self.is_in_flight = False
        self.is_settled = True
        if self.span is not None:
            self.span.end(error)
        self.on_settled()

    def outcome(self) -> Any:
        """Return the result, None for a posted call that is still on its way. Raises NotDelivered."""
        assert self.is_settled or self.is_posted
        if self.error is not None:
            raise self.error
        return self.result
