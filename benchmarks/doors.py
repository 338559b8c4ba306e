"""How clients get in to a server: what the load generator needs to know of the server's own protocol."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: How updates lie on the wire; `benchmarks.generator.counting` has the meaning.
Count = Literal["frames", "lines", "stream", "events"]


@dataclass(frozen=True)
class Door:
    """A way in for clients that follow one channel each. ``{task}`` stands for the channel.

    steps: what the client says, and a text that the answer to wait for contains; either may be None
    pongs: messages of the server that want an answer, and the answer
    tls:   any certificate is accepted
    """

    path: str
    steps: tuple[tuple[str | None, str | None], ...]
    kind: Literal["ws", "sse"] = "ws"
    count: Count = "frames"
    pongs: dict[str, str] = field(default_factory=dict)
    subprotocol: str | None = None
    tls: bool = False

    def plain(self) -> dict[str, Any]:
        """For a load generator."""
        return asdict(self)


#: The subscribe of Relay's `/ws/tasks`, which the plain peers speak, too.
SUBSCRIBE = ('{"type":"subscribe","task_id":"{task}"}', '"subscribed"')

TASKS = Door("/ws/tasks", (SUBSCRIBE,))

#: For those who only follow what is for everyone. The pong tells that the session is up.
GENERAL = Door("/ws/tasks", (('{"type":"ping"}', '"pong"'),))

#: With positions: the client says what it saw last, and hears whether that was enough.
POSITIONED = Door("/ws/tasks", (('{"type":"subscribe","task_id":"{task}","position":{position}}', '"subscribed"'),))

EVENTS = Door("/events?task={task}", ((None, "retry:"),), kind="sse", count="events")
