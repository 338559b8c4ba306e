"""One call of Redis that is on its way, and what became of it."""

from collections.abc import Callable, Sequence
from typing import Any

from relay_wire.scripts import Script

from relay_client.errors import NotDelivered

Command = tuple[Any, ...]


class Call:
    """A script or a plain command, to be carried out once.

    channel:    what it is for, as errors name it
    keys:       the first says where it goes on a cluster
    values:     a script's further arguments
    command:    a plain command, in place of a script
    repeatable: sending it again after a lost answer does no harm: the script recognises it, or it sets what is set already
    fallback:   the plain command to send in its place when Redis has no memory for it
    waits:      where replicas are waited for, they must have it too
    read:       makes the outcome of the answer
    """

    __slots__ = (
        "at_risk",
        "channel",
        "command",
        "deadline",
        "error",
        "fallback",
        "is_posted",
        "is_settled",
        "keys",
        "read",
        "repeatable",
        "result",
        "script",
        "size",
        "values",
        "waits",
        "within",
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
        waits: bool = False,
        read: Callable[[Any], Any] = lambda answer: answer,
    ) -> None:
        self.channel = channel
        self.keys = keys
        self.script = script
        self.values = values
        self.command = command
        self.repeatable = repeatable
        self.fallback = fallback
        self.waits = waits
        self.read = read
        self.size = 256 + sum(len(value) for value in (*values, *command) if isinstance(value, bytes | str))
        self.within = self.deadline = 0.0
        self.is_posted = False
        self.is_settled = False
        #: It was sent before, and may have been carried out.
        self.at_risk = False
        self.result: Any = None
        self.error: NotDelivered | None = None

    def words(self, spell_out: bool) -> Command:
        """What to send; spell_out: with the script's source, for a server that does not know it."""
        if self.script is None:
            return self.command
        name, body = ("EVAL", self.script.source) if spell_out else ("EVALSHA", self.script.sha)
        return (name, body, len(self.keys), *self.keys, *self.values)

    def fall_back(self) -> None:
        """Redis has no memory for it: from now on it is the plain command, whose outcome is None."""
        assert self.fallback is not None
        self.script, self.command, self.fallback = None, self.fallback, None
        self.waits = False
        self.read = lambda _answer: None

    def outcome(self) -> Any:
        """The result. Raises NotDelivered."""
        assert self.is_settled
        if self.error is not None:
            raise self.error
        return self.result
